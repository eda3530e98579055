"""``crossknn evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crossknn.cli.models import Shortlisted
from crossknn.cli.options import (
    METHOD_HELP,
    Cache,
    Device,
    FirstStageSpec,
    IndexPath,
    Json,
    Mixing,
    Rounds,
    ScorerSpec,
    chosen_method,
    drawn,
    fitting,
    reader,
    unlearned,
)
from crossknn.cli.terminal import deliver, notes, one_line_errors, progress_bar
from crossknn.errors import InputError
from crossknn.evaluation import EvaluationOptions, default_methods, evaluate
from crossknn.files import make_folder
from crossknn.inputs import judgements, labels_of, read_qrels, read_queries
from crossknn.search import method_named
from crossknn.storage import MANIFEST


@one_line_errors
def evaluate_command(
    index: IndexPath,
    queries: Annotated[
        Path,
        typer.Option(help="Test queries (JSONL, CSV, TSV, TXT or Parquet), perhaps with the label of the right item."),
    ],
    out_folder: Annotated[
        Path, typer.Option("--out", help="Folder for ground truth and report: HTML, Markdown, JSON, PNG.")
    ],
    k: Annotated[list[int], typer.Option("--k", "-k", help="Top-k-Recall for this k; repeat for more.")] = [1, 10, 100],  # noqa: B006
    budget: Annotated[list[int], typer.Option(help="Calls per query; repeat for more.")] = [50, 100, 200, 500],  # noqa: B006
    qrels: Annotated[
        Path | None, typer.Option(help="Judgements in TREC's format, for nDCG@10 and R@100; queries need ids then.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Take this many queries, drawn with the seed.")] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(
            help="What is compared, the baseline first; or else rerank, axn-paper, axn and, over mf-side, bayes-ucb. "
            + METHOD_HELP
        ),
    ] = None,
    rounds: Rounds = None,
    mixing: Mixing = None,
    shortlist: Shortlisted = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the draw and of the bootstrap.")] = 0,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Compare search methods with each other against the cross-encoder's exact top k.

    The exact top k costs one call for every (query, item) pair. It is kept in the output folder; an interrupted run
    goes on from there. Queries that the index has learned from are left out.

    Example: [bold]crossknn evaluate codes.crossknn --queries test.jsonl --limit 50 --out report/[/bold]
    """
    opened = reader(index, scorer, first_stage, device, cache_file)()
    rows = drawn(unlearned(opened, read_queries(queries), queries, "evaluation"), limit, seed)
    labels = labels_of(rows)
    judged = None if qrels is None else judgements(rows, read_qrels(qrels), qrels)
    if (out_folder / MANIFEST).exists():
        raise InputError(f"{out_folder} holds an index; the report needs a folder of its own")
    names = method or list(default_methods(opened))
    methods = {
        name: chosen_method(opened, name, *fitting(method_named(name), rounds, mixing), shortlist) for name in names
    }
    options = EvaluationOptions(ks=k, budgets=_within(budget, len(opened)), methods=methods, seed=seed)
    make_folder(out_folder)
    there = ", less those that are there" if (out_folder / "exact").exists() else ""
    calls = f"{len(rows):,} queries x {len(opened):,} items = {len(rows) * len(opened):,} calls{there}"
    notes.print(f"exact top k: {calls}")
    texts = [row.text for row in rows]
    with progress_bar("scoring") as progress:
        report = evaluate(
            opened,
            texts,
            labels=labels,
            relevant=judged,
            folder=out_folder / "exact",
            options=options,
            progress=progress,
        )
    deliver(report, out_folder, as_json=as_json)


def _within(budgets: list[int], n_items: int) -> list[int]:
    """Budgets up to the number of items: more buys nothing."""
    return sorted({min(budget, n_items) for budget in budgets})
