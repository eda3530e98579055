"""Options that several commands share, and what they open: an index with its models, a way to search it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer

from crossknn.cli.models import FIRST_STAGE_HELP, SCORER_HELP, open_first_stage, open_scorer
from crossknn.cli.terminal import notes
from crossknn.errors import InputError
from crossknn.index import Index
from crossknn.inputs import Query
from crossknn.scorers import CachedScorer
from crossknn.search import METHODS, SearchMethod, Shortlist, method_named, settings_of, with_settings
from crossknn.storage import read_manifest

T = TypeVar("T")

METHOD_HELP = f"One of {', '.join(METHODS)}; perhaps with rounds and more behind: axn-r5, axn-m0.5, axn/vectors."
IndexPath = Annotated[Path, typer.Argument(metavar="INDEX", help="Folder of the index.")]
ScorerSpec = Annotated[str | None, typer.Option("--scorer", help=SCORER_HELP)]
FirstStageSpec = Annotated[str | None, typer.Option("--first-stage", help=FIRST_STAGE_HELP)]
Device = Annotated[str, typer.Option(help="Where models run: cpu, cuda, ...")]
Cache = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        envvar="CROSSKNN_CACHE",
        metavar="FILE",
        help="Keep every score in this SQLite file, and look there first.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Rounds = Annotated[int | None, typer.Option(min=1, help="Rounds that the budget is divided into.")]
Mixing = Annotated[
    float | None, typer.Option(min=0, max=1, help="Weight of the dual encoder's query vector (lambda, eq. 7).")
]


def chosen_method(
    index: Index, name: str | None, rounds: int | None, mixing: float | None, shortlist: int | None
) -> SearchMethod:
    """A method, or the index's own, with its settings changed where the user says so."""
    method = index.default_method() if name is None else method_named(name)
    method = with_settings(method, name or "reranking", rounds, mixing)
    return method if shortlist is None else Shortlist(method, shortlist)


def fitting(method: SearchMethod, rounds: int | None, mixing: float | None) -> tuple[int | None, float | None]:
    """Those of the settings that a method has: of several methods, some have none."""
    has = settings_of(method)
    return rounds if "rounds" in has else None, mixing if "mixing" in has else None


def drawn(rows: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """So many of the rows at random, in their order; all where there are no more."""
    if limit is None or limit >= len(rows):
        return list(rows)
    return [rows[n] for n in np.sort(np.random.default_rng(seed).choice(len(rows), limit, replace=False))]


def unlearned(index: Index, rows: Sequence[Query], file: Path, what: str) -> list[Query]:
    """Those of a file's queries that the index has not learned from: on the others it would flatter itself.

    Raises:
        InputError: it has learned from all of them.
    """
    learned = set(index.train_queries)
    others = [row for row in rows if row.text not in learned]
    if rows and not others:
        raise InputError(f"the index has learned from every query of {file}; {what} needs others")
    if len(others) < len(rows):
        left_out = len(rows) - len(others)
        notes.print(f"note: the index has learned from {left_out:,} of the {len(rows):,} queries, which are left out")
    return others


def reader(
    folder: Path,
    scorer: str | None,
    first_stage: str | None,
    device: str,
    cache_file: Path | None,
    *,
    in_memory: bool = False,
) -> Callable[[], Index]:
    """What reads an index with the models it remembers, or those named, as often as it is asked.

    Raises:
        InputError: it remembers none, or there are none where it does.
    """
    remembered = read_manifest(folder)["config"].get("notes", {})
    scorer_spec, first_spec = scorer or remembered.get("scorer"), first_stage or remembered.get("first_stage")
    if scorer_spec is None or first_spec is None:
        raise InputError(f"{folder} does not say what it was built with; name --scorer and --first-stage")
    with _remembered("--scorer", None if scorer else scorer_spec):
        opened = open_scorer(scorer_spec, device, named=scorer is not None)
    opened = opened if cache_file is None else CachedScorer(opened, cache_file)
    with _remembered("--first-stage", None if first_stage else first_spec):
        retriever = open_first_stage(first_spec, device, opened)
    return partial(Index.load, folder, scorer=opened, first_stage=retriever, in_memory=in_memory)


@contextmanager
def _remembered(option: str, remembered: str | None) -> Iterator[None]:
    """Say where a name came from that the user did not give, where it may be the name that is wrong."""
    try:
        yield
    except InputError as error:
        if remembered is None or re.split("[:+]", remembered)[-1] not in str(error):
            raise
        raise InputError(f"{error} (the index remembers it; where it has moved, name {option})") from error
