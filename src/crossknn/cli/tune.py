"""``crossknn tune``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from crossknn.cli.options import Cache, Device, FirstStageSpec, IndexPath, Json, ScorerSpec, drawn, reader, unlearned
from crossknn.cli.terminal import one_line_errors, out, progress_bar, tuning_table
from crossknn.files import sole_writer
from crossknn.inputs import read_queries
from crossknn.storage import TUNING, read_manifest


@one_line_errors
def tune_command(
    index: IndexPath,
    queries: Annotated[
        Path, typer.Option(help="Queries like those to come (JSONL, CSV, TSV, TXT or Parquet); no labels needed.")
    ],
    k: Annotated[int, typer.Option("--k", "-k", help="Hits that searches will ask for.")] = 10,
    budget: Annotated[int, typer.Option(help="Cross-encoder calls per query; with a target the most.")] = 100,
    target_recall: Annotated[
        float | None, typer.Option(help="Find the cheapest way to this recall (as 0.9), not the best for the budget.")
    ] = None,
    limit: Annotated[int, typer.Option(min=2, help="Queries to use; drawn at random from the file.")] = 50,
    exact: Annotated[
        int,
        typer.Option(
            min=0, help="Score all items for so many of them, which corrects --target-recall by what all trials missed."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw.")] = 0,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Compare ways to search an index on your queries, keep the best with the index, and say what to expect of it.

    What is scored is kept until it is done: run again after an interruption, or for a target that was out of reach, it
    pays for no pair twice.

    Example: [bold]crossknn tune codes.crossknn --queries dev.jsonl --budget 100[/bold]
    """
    rows = read_queries(queries)
    read_manifest(index)  # nothing is written where there is no index
    with sole_writer(index):  # from before a call is spent: the result can be kept, and no other build is undone
        opened = reader(index, scorer, first_stage, device, cache_file or index / TUNING)()
        others = dict.fromkeys(row.text for row in unlearned(opened, rows, queries, "tuning"))
        texts = drawn(list(others), limit, seed)
        with progress_bar("trying") as progress:
            tuning = opened.tune(
                texts, k=k, budget=budget, target_recall=target_recall, exact_queries=exact, progress=progress
            )
        if as_json:
            typer.echo(json.dumps(asdict(tuning)))
        else:
            out.print(tuning_table(tuning))
        opened.save(index, locked=True)
    if as_json:
        return
    told = " to ".join(f"{100 * end:.1f}" for end in tuning.interval or ())
    out.print(
        f"{escape(str(index))} is now searched by [bold]{tuning.method}[/bold] with {tuning.budget} calls: "
        f"expect to find {tuning.expected_recall:.1%} ({told}) of the cross-encoder's top {k}\n"
        f"(measured on {tuning.queries} queries with {tuning.calls:,} calls, against the best that any way found)",
        highlight=False,
        soft_wrap=True,
    )
