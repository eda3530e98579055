"""TREC's files: judgements (qrels) and ranked lists (runs), as trec_eval, ir_measures and Anserini exchange them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from crossknn.errors import InputError
from crossknn.files import write_aside
from crossknn.inputs.rows import Row, put, read_lines, whole_number
from crossknn.inputs.tables import Query

Qrels = dict[str, dict[str, int]]
"""Query id to item id to relevance: 0 or less is not relevant, more is better."""

Run = dict[str, dict[str, float]]
"""Query id to item id to score, higher is better."""


def read_qrels(path: Path) -> Qrels:
    """Judgements: lines ``qid iter docno rel``. The iteration is not kept. Also from .gz.

    Raises:
        InputError: which line is wrong, and how.
    """
    qrels: Qrels = {}
    for place, row in _fields(path, "qid iter docno rel"):
        rel = whole_number(place, row, "rel")
        put(place, "docno", qrels.setdefault(row["qid"], {}), row["docno"], rel)
    return qrels


def judgements(queries: Sequence[Query], qrels: Qrels, path: Path) -> list[dict[str, int]]:
    """What is relevant to each query, by its id.

    Args:
        queries: with ids.
        qrels: judgements.
        path: where they came from, for errors.

    Raises:
        InputError: a query has no id, or no relevant item.
    """
    for query in queries:
        if query.id is None:
            raise InputError(f"the query {query.text!r} has no id, by which {path} could judge it")
        if not any(grade > 0 for grade in qrels.get(query.id, {}).values()):
            raise InputError(f"{path} has nothing relevant to the query {query.id!r}; leave it out")
    return [qrels[query.id] for query in queries if query.id is not None]


def read_run(path: Path) -> Run:
    """A run: lines ``qid Q0 docno rank score tag``. As in trec_eval the score ranks, and ``rank`` is passed over.

    Raises:
        InputError: which line is wrong, and how.
    """
    run: Run = {}
    for place, row in _fields(path, "qid Q0 docno rank score tag"):
        try:
            score = float(row["score"])
        except ValueError:
            score = math.nan
        if not math.isfinite(score):
            raise InputError(f"{place}: 'score' must be a finite number, got {row['score']!r}")
        put(place, "docno", run.setdefault(row["qid"], {}), row["docno"], score)
    return run


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write judgements, atomically.

    Raises:
        InputError: there are none, or an id is empty, has blanks in it or is no valid Unicode.
        WriteError: the disk is full or read-only.
    """
    _write(
        path, [(query, "0", item, str(int(rel))) for query, of_query in qrels.items() for item, rel in of_query.items()]
    )


def write_run(path: Path, run: Mapping[str, Mapping[str, float]], *, tag: str = "crossknn") -> None:
    """Write a run, atomically: ranks from 1 by score, equal scores in the order given, no digit of a score lost.

    Of equal scores trec_eval takes the greater docno first, whatever the rank.

    Raises:
        InputError: there is nothing to write, a score is not finite, or an id or the tag is empty, has blanks in it or
            is no valid Unicode.
        WriteError: the disk is full or read-only.
    """
    rows = []
    for query, scores in run.items():
        for rank, (item, score) in enumerate(sorted(scores.items(), key=lambda scored: -scored[1]), 1):
            if not math.isfinite(score):
                raise InputError(f"the score of item {item!r} for query {query!r} is {score}; it must be finite")
            rows.append((query, "Q0", item, str(rank), repr(float(score)), tag))
    _write(path, rows)


def _fields(path: Path, layout: str) -> Iterator[tuple[str, Row]]:
    names = layout.split()
    place = None
    for place, line in read_lines(path):
        fields = line.split()
        if len(fields) != len(names):
            raise InputError(
                f"{place}: expected {layout!r}, {len(names)} fields, got {len(fields)}: {line.strip()[:80]!r}"
            )
        yield place, dict(zip(names, fields, strict=True))
    if place is None:
        raise InputError(f"{path} is empty; lines of {layout!r} are expected")


def _write(path: Path, rows: Sequence[tuple[str, ...]]) -> None:
    if not rows:
        raise InputError(f"there is nothing to write to {path}")
    for row in rows:
        for value in row:
            if value.strip("\ufeff").split() != [value]:  # a byte order mark would be lost as well
                raise InputError(
                    f"{value!r} cannot stand in {path}: blanks part TREC's fields; map it to an id without any"
                )
    try:
        data = "".join(" ".join(row) + "\n" for row in rows).encode()
    except UnicodeEncodeError as error:
        raise InputError(f"an id for {path} is no valid Unicode ({error.reason})") from error
    write_aside(path, data)
