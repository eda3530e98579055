"""``crossknn cache info | clear``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from crossknn.cli.terminal import one_line_errors, out
from crossknn.scorers import cache_entries, clear_cache

cache = typer.Typer(help="Look into a score cache (made by --cache), or empty it.", no_args_is_help=True)

CacheFile = Annotated[Path, typer.Argument(metavar="FILE", envvar="CROSSKNN_CACHE", help="The cache's SQLite file.")]


@cache.command()
@one_line_errors
def info(file: CacheFile) -> None:
    """How many scores a cache holds, scorer by scorer.

    Example: [bold]crossknn cache info scores.sqlite[/bold]
    """
    entries = cache_entries(file)
    table = Table(box=None)
    table.add_column("scores", justify="right")
    table.add_column("model", overflow="fold")
    table.add_column("kernel", overflow="fold")
    for entry in entries:
        table.add_row(f"{entry.n_scores:,}", escape(entry.fingerprint.model), escape(entry.fingerprint.kernel))
    out.print(table)
    total = sum(entry.n_scores for entry in entries)
    out.print(f"{total:,} scores, {file.stat().st_size / 1e6:,.1f} MB", highlight=False)


@cache.command()
@one_line_errors
def clear(
    file: CacheFile,
    model: Annotated[str | None, typer.Option(help="Forget this model's scores alone, as info names it.")] = None,
) -> None:
    """Forget the scores of a cache.

    Example: [bold]crossknn cache clear scores.sqlite[/bold]
    """
    out.print(f"forgot {clear_cache(file, model):,} scores", highlight=False)
