"""JSON lines and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crossknn.errors import InputError


@dataclass(frozen=True)
class Query:
    """A query from a file.

    Attributes:
        text: the query.
        label: id of the item that is right for it, if the file says so.
    """

    text: str
    label: str | None = None


def read_items(path: Path) -> dict[str, str]:
    """Items from a file: columns or keys ``id`` (or ``_id``) and ``text``, and perhaps ``title``, put before the text.

    Args:
        path: ends in .jsonl, .json (one object per line) or .csv (with a header), UTF-8.

    Returns:
        Id to text, in the order of the file.

    Raises:
        InputError: which line is wrong, and how.
    """
    items: dict[str, str] = {}
    for line, row in _rows(path):
        key = _first(row, "id", "_id")
        text = " ".join(part for part in (_first(row, "title"), _first(row, "text")) if part)
        if not key or not text:
            raise InputError(f"{path}, line {line}: an item needs an 'id' and a 'text', got {_shown(row)}")
        if key in items:
            raise InputError(f"{path}, line {line}: the id {key!r} stands twice; ids must be unique")
        items[key] = text
    if not items:
        raise InputError(f"{path} holds no items")
    return items


def read_queries(path: Path) -> list[Query]:
    """Queries from a file: column or key ``text`` (or ``query``), and perhaps ``label``, the id of the right item.

    A text file (.txt) holds one query a line.

    Raises:
        InputError: which line is wrong, and how.
    """
    queries = []
    for line, row in _rows(path):
        text = _first(row, "text", "query")
        if not text:
            raise InputError(f"{path}, line {line}: a query needs a 'text', got {_shown(row)}")
        queries.append(Query(text, _first(row, "label") or None))
    if not queries:
        raise InputError(f"{path} holds no queries")
    return queries


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line numbers and rows. Blank lines are passed over."""
    readers = {".jsonl": _json_rows, ".json": _json_rows, ".csv": _csv_rows, ".txt": _text_rows}
    suffix = path.suffix.lower()
    if suffix not in readers:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use .jsonl or .csv")
    try:
        yield from readers[suffix](path)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}); convert it first") from error
    except FileNotFoundError:
        raise InputError(f"{path} is not there") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; a file is needed") from None


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"{path}, line {number}: no JSON ({error}); one object per line is expected"
                ) from error
            if not isinstance(row, dict):
                raise InputError(f"{path}, line {number}: expected an object with keys, got {_shown(row)}")
            yield number, row


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters
        reader = csv.DictReader(file)
        try:
            for row in reader:
                if None in row:
                    raise InputError(f"{path}, line {reader.line_num}: more fields than the header has; quote commas")
                yield reader.line_num, row
        except csv.Error as error:
            raise InputError(f"{path}, line {reader.line_num}: {error}") from error


def _text_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, {"text": line}


def _first(row: dict[str, Any], *names: str) -> str:
    """The first of some fields that is there, as stripped text."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return str(value).strip()
        if value is not None:
            raise InputError(f"{name!r} must be text or a whole number, got {_shown(row)}")
    return ""


def _shown(row: object) -> str:
    text = json.dumps(row, ensure_ascii=False)
    return text if len(text) <= 120 else text[:117] + "..."
