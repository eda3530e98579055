"""Items and queries from tables, whatever the format."""

from __future__ import annotations

import datetime
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossknn.errors import CrossKNNWarning, InputError
from crossknn.inputs.rows import field, put, read_rows, shown, suffix_of
from crossknn.metadata import Metadata


@dataclass(frozen=True)
class Query:
    """A query from a file.

    Attributes:
        text: the query.
        label: id of the one item that is right for it, if the file says so. Several or graded ones are qrels.
        id: the query's own id, if it has one.
    """

    text: str
    label: str | None = None
    id: str | None = None


def labels_of(queries: Sequence[Query]) -> list[str] | None:
    """The label of every query; None where none has one.

    Raises:
        InputError: only some have.
    """
    labels = [query.label for query in queries if query.label is not None]
    if labels and len(labels) != len(queries):
        raise InputError(f"{len(labels)} of {len(queries)} queries have a label; give it to all or to none")
    return labels or None


def read_items(path: Path, *, skip_empty: bool = False) -> dict[str, str]:
    """Items from a file: columns or keys ``id`` (or ``_id``) and ``text``, and perhaps ``title``, put before the text.

    Args:
        path: ends in .jsonl, .json (one object per line), .csv or .tsv (with a header; nothing is quoted in .tsv), all
            UTF-8 and perhaps with .gz behind, or in .parquet; or a BeIR folder, whose ``corpus.jsonl`` is read.
        skip_empty: pass over items without text, with a CrossKNNWarning, rather than refuse the file.

    Returns:
        Id to text, in the order of the file.

    Raises:
        InputError: which line is wrong, and how.
        MissingExtraError: a Parquet file, and pyarrow is not installed (extra ``parquet``).
    """
    items: dict[str, str] = {}
    empty: list[str] = []
    path = path / "corpus.jsonl" if path.is_dir() else path
    for place, row in read_rows(path, ("id", "_id", "title", "text")):
        key = field(place, row, "id", "_id")
        text = " ".join(part for part in (field(place, row, "title"), field(place, row, "text")) if part)
        if key and not text and skip_empty:
            empty.append(place)
            continue
        if not key or not text:
            raise InputError(
                f"{place}: an item needs an 'id' and a 'text', got {shown(row)}; leave it out, or name the columns so"
            )
        put(place, "id", items, key, text)
    if empty:
        warnings.warn(
            f"left out {len(empty)} items without text, the first at {empty[0]}", CrossKNNWarning, stacklevel=2
        )
    if not items:
        raise InputError(f"{path} holds no items")
    return items


def read_ids(path: Path) -> list[str]:
    """Items' ids from a file, each once: column or key ``id`` (or ``_id``), or .txt with one a line.

    Raises:
        InputError: which line is wrong, and how.
        MissingExtraError: a Parquet file, and pyarrow is not installed (extra ``parquet``).
    """
    found: dict[str, None] = {}
    for place, row in read_rows(path, ("id", "_id")):
        key = field(place, row, "id", "_id") or (field(place, row, "text") if suffix_of(path) == ".txt" else "")
        if not key:
            raise InputError(f"{place}: an 'id' is needed, got {shown(row)}")
        found[key] = None
    if not found:
        raise InputError(f"{path} holds no ids")
    return list(found)


def read_metadata(path: Path, fields: Sequence[str], *, joining: Metadata | None = None) -> dict[str, dict[str, Any]]:
    """Some fields of a file's items, for ``Index.build(metadata=...)``: id to field to value.

    A field is a column or key, or a key of the object ``metadata`` that BeIR's documents have. A column of CSV or TSV
    in which every value is a number as Python would write it (``7``, not ``007``) is one of numbers, one in which each
    is ``true`` or ``false``, however capital, of booleans; any other is one of texts, with a warning where most are
    numbers. Dates become ISO texts.

    Args:
        path: as in :func:`read_items`.
        fields: which are kept.
        joining: metadata of an index to which these are to be added. The file may lack its fields, and those that it
            has hold values of the same kind there as here: a column of numbers is one of texts where these are.

    Raises:
        InputError: which line is wrong, and how; or no item has one of the fields, or a value is of another kind than
            those that are there.
        MissingExtraError: a Parquet file, and pyarrow is not installed (extra ``parquet``).
    """
    path = path / "corpus.jsonl" if path.is_dir() else path
    suffix = suffix_of(path)
    kinds = {name: joining.kinds(name) for name in joining.fields} if joining is not None else {}
    found: dict[str, dict[str, Any]] = {}
    others: dict[str, None] = {}
    for place, row in read_rows(path, ("id", "_id", "metadata", *fields)):
        nested = row.get("metadata")
        known = {**(nested if isinstance(nested, dict) else {}), **row}
        others |= dict.fromkeys(known)
        values = {name: _plain(known[name]) for name in fields if known.get(name) not in (None, "")}
        try:
            Metadata([values])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        put(place, "id", found, field(place, row, "id", "_id"), values)
    for name in fields:
        if name not in kinds and not any(name in row for row in found.values()):
            there = "" if suffix == ".parquet" else f"; its fields are {', '.join(map(repr, others))}"
            raise InputError(f"no item of {path} has the field {name!r}{there}")
        if suffix in (".csv", ".tsv"):
            _give_kind(path, name, [row for row in found.values() if name in row], kinds.get(name))
        new = Metadata([row for row in found.values() if name in row])
        if name in kinds and name in new.fields and new.kinds(name) - kinds[name]:
            raise InputError(
                f"{name!r} is a field of {' and '.join(sorted(kinds[name]))} in the index, and {path} has "
                f"{' and '.join(sorted(new.kinds(name) - kinds[name]))} there; write them alike, or build again"
            )
    return found


def _give_kind(path: Path, name: str, rows: list[dict[str, Any]], wanted: set[str] | None) -> None:
    """Make a column of CSV, whose values are all texts, one of numbers or booleans where it can be, and is one in the
    index that it joins."""
    column = [row[name] for row in rows]
    of_kinds: tuple[tuple[str, list[Any]], ...] = (
        ("number", [_number(value) for value in column]),
        ("boolean", [_BOOLEANS.get(value.lower()) for value in column]),
    )
    for kind, values in of_kinds:
        if wanted in (None, {kind}) and column and None not in values:
            for row, value in zip(rows, values, strict=True):
                row[name] = value
            return
    odd = [text for text, number in zip(column, of_kinds[0][1], strict=True) if number is None]
    numbered = any(text.isdigit() for text in odd)  # 007: these are names
    if wanted is None and odd and not numbered and 2 * len(odd) < len(column):
        warnings.warn(
            f"{path}: {len(odd)} of {len(column)} values of {name!r} are no numbers as Python writes them (such as "
            f"{odd[0]!r:.40}), so all are kept as texts, which compare letter by letter; leave such cells empty",
            CrossKNNWarning,
            stacklevel=3,
        )


_BOOLEANS = {"true": True, "false": False}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value if one is not None]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else value


def _number(text: str) -> int | float | None:
    """The number that a text is, if it is written as Python writes it."""
    for kind in (int, float):
        try:
            if str(kind(text)) == text and text not in ("inf", "-inf", "nan"):
                return kind(text)
        except ValueError:
            continue
    return None


def read_queries(path: Path) -> list[Query]:
    """Queries from a file: column or key ``text`` (or ``query``), and perhaps ``id`` (or ``_id``) and ``label``.

    Args:
        path: as in :func:`read_items`, or .txt with one query a line; or a BeIR folder, whose ``queries.jsonl`` holds
            those of all splits (:func:`~crossknn.inputs.read_beir` gives those of one, with what is relevant).

    Raises:
        InputError: which line is wrong, and how.
        MissingExtraError: a Parquet file, and pyarrow is not installed (extra ``parquet``).
    """
    queries: list[Query] = []
    known: dict[str, Query] = {}
    path = path / "queries.jsonl" if path.is_dir() else path
    for place, row in read_rows(path, ("id", "_id", "text", "query", "label")):
        text = field(place, row, "text", "query")
        if not text:
            raise InputError(f"{place}: a query needs a 'text', got {shown(row)}")
        query = Query(text, field(place, row, "label") or None, field(place, row, "id", "_id") or None)
        if query.id is not None:
            put(place, "id", known, query.id, query)
        queries.append(query)
    if not queries:
        raise InputError(f"{path} holds no queries")
    return queries
