"""``crossknn verify``."""

from __future__ import annotations

from rich.markup import escape

from crossknn.cli.options import IndexPath
from crossknn.cli.terminal import one_line_errors, out
from crossknn.scorers import Fingerprint
from crossknn.storage import load


@one_line_errors
def verify(index: IndexPath) -> None:
    """Read every byte of an index, compare it with its checksum, and say what is there.

    Example: [bold]crossknn verify codes.crossknn[/bold]
    """
    contents = load(index)
    sizes = [file.stat().st_size for file in index.rglob("*") if file.is_file()]
    scores = len(contents.arrays["score_values"]) if "score_values" in contents.arrays else 0
    config = contents.config
    out.print(
        f"{escape(str(index))} is whole: {config['n_items']:,} items, {len(contents.rows.get('train_queries', [])):,} "
        f"train queries, {scores:,} scores, {sum(sizes) / 1e6:,.1f} MB\n"
        f"scorer: {escape(str(Fingerprint(**config['scorer'])))}\nfirst stage: {escape(config['first_stage'])}",
        highlight=False,
        soft_wrap=True,
    )
