"""``crossknn search``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from crossknn.cli.conditions import Filter, parsed
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
    reader,
)
from crossknn.cli.terminal import notes, one_line_errors, out, result_table
from crossknn.errors import InputError
from crossknn.inputs import read_queries


@one_line_errors
def search(
    index: IndexPath,
    query: Annotated[list[str] | None, typer.Argument(help="One query or more.")] = None,
    queries: Annotated[Path | None, typer.Option(help="Queries from a file (JSONL, CSV, TSV, TXT or Parquet).")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="Hits per query.")] = 10,
    budget: Annotated[
        int | None, typer.Option(help="Cross-encoder calls per query; the tuned number, or 100.", show_default=False)
    ] = None,
    target_recall: Annotated[
        float | None,
        typer.Option(help="Stop before, once the hits are expected to hold this share of the exact top k (as 0.95)."),
    ] = None,
    max_ms: Annotated[
        float | None, typer.Option(help="Stop before, rather than take longer than these milliseconds.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help=f"How the budget is spent: as tuned, or else what suits the index. {METHOD_HELP}"),
    ] = None,
    share_budget: Annotated[
        bool,
        typer.Option(
            "--share-budget",
            help="The budget is the mean of the queries: those of which most is expected to be missing have more.",
        ),
    ] = False,
    filter: Filter = None,
    rounds: Rounds = None,
    mixing: Mixing = None,
    shortlist: Shortlisted = None,
    scorer: ScorerSpec = None,
    first_stage: FirstStageSpec = None,
    device: Device = "cpu",
    cache_file: Cache = None,
    as_json: Json = False,
) -> None:
    """Search an index. The scorer and first stage are those of the build unless named.

    Example: [bold]crossknn search codes.crossknn "water on the brain" --budget 200[/bold]
    """
    texts = [*(query or []), *([q.text for q in read_queries(queries)] if queries else [])]
    if not texts:
        raise InputError("there is no query; give one, or a file with --queries")
    opened = reader(index, scorer, first_stage, device, cache_file)()
    asked = method, rounds, mixing, shortlist
    results = opened.search_batch(
        texts,
        k=k,
        budget=budget,
        target_recall=target_recall,
        max_ms=max_ms,
        method=None if asked == (None,) * 4 else chosen_method(opened, *asked),
        filter=parsed(filter, opened.metadata) if filter else None,
        share_budget=share_budget,
    )
    if as_json:
        for result in results:
            typer.echo(json.dumps(result.to_dict(), ensure_ascii=not out.encoding.startswith("utf")))
        return
    for result in results:
        out.print(result_table(result))
        out.print()
    if filter and results[0].calls == 0:
        notes.print("note: the filter leaves no item; texts are compared letter by letter, capitals too")
