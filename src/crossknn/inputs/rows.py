"""Rows of files, one reader per format; whatever is wrong with a file becomes an InputError that says where."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from crossknn.checks import check_unicode
from crossknn.errors import InputError, import_extra

Row = dict[str, Any]
Value = TypeVar("Value")


def read_rows(path: Path, columns: Collection[str] = ()) -> Iterator[tuple[str, Row]]:
    """Where each row stands (file and line), and the row. Blank lines are passed over; one row is in memory at a time.

    Args:
        path: .jsonl or .json (one object per line), .csv or .tsv (with a header), .txt (key ``text``), all UTF-8 and
            perhaps with .gz behind; or .parquet (extra ``parquet``), of which a batch is in memory at a time.
        columns: what is read of a Parquet file, as far as it is there.

    Raises:
        InputError: the file is not there, without those columns, damaged, or of no known format.
        MissingExtraError: pyarrow is not installed.
    """
    readers: dict[str, Callable[[Path], Iterator[tuple[str, Row]]]] = {
        ".jsonl": _json_rows,
        ".json": _json_rows,
        ".csv": lambda path: _csv_rows(path, delimiter=",", strict=True),
        ".tsv": lambda path: _csv_rows(path, delimiter="\t", quoting=csv.QUOTE_NONE),
        ".txt": lambda path: ((place, {"text": line}) for place, line in read_lines(path)),
        ".parquet": lambda path: _parquet_rows(path, columns),
    }
    suffix = suffix_of(path)
    if suffix not in readers and not path.exists():
        raise InputError(f"{path} is not there")
    if suffix not in readers:
        raise InputError(f"{path}: cannot tell the format from {path.suffix!r}; use {', '.join(readers)}")
    return readers[suffix](path)


def suffix_of(path: Path) -> str:
    """What tells a file's format: the end of its name, or what stands before ``.gz``."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def read_lines(path: Path) -> Iterator[tuple[str, str]]:
    """Where each line stands, and its text; blank lines are passed over.

    Raises:
        InputError: the file is not there, not UTF-8, or a damaged .gz.
    """
    for number, line in enumerate(_text_lines(path), 1):
        if line.strip():
            yield f"{path}, line {number}", line


def _text_lines(path: Path) -> Iterator[str]:
    _check_file(path)
    number = 0
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}, line {number}: not UTF-8 ({error.reason} at its byte {error.start}); convert the file first"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}, after line {number}: no whole gzip file ({error}); fetch it again") from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a folder; a file is needed")
    if not path.exists():
        raise InputError(f"{path} is not there")


def _json_rows(path: Path) -> Iterator[tuple[str, Row]]:
    for place, line in read_lines(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: no JSON ({error}); one object per line is expected") from error
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object with keys, got {shown(row)}")
        yield place, row


def _csv_rows(path: Path, **dialect: Any) -> Iterator[tuple[str, Row]]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters
    reader = csv.DictReader(_text_lines(path), **dialect)
    try:
        header = reader.fieldnames or []
        if twice := [name for name in header if header.count(name) > 1]:
            raise InputError(f"{path}, line 1: the header has {twice[0]!r} twice; rename one of these columns")
        for row in reader:
            place = f"{path}, line {reader.line_num}"
            if None in row:
                raise InputError(f"{place}: more fields than the header has; quote commas, leave tabs out")
            yield place, row
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: {error}; is the file cut off?") from error


def _parquet_rows(path: Path, columns: Collection[str]) -> Iterator[tuple[str, Row]]:
    pyarrow, parquet = import_extra("pyarrow", "parquet"), import_extra("pyarrow.parquet", "parquet")
    _check_file(path)
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            there = file.schema_arrow.names
            if not set(there) & set(columns):
                raise InputError(f"{path} has the columns {there}, and none of {sorted(columns)}; rename them")
            for batch in file.iter_batches(4096, columns=[name for name in there if name in columns]):
                for row in batch.to_pylist():
                    number += 1
                    yield f"{path}, row {number}", row
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}, after row {number}: no whole Parquet file ({error}); fetch it again") from error


def field(place: str, row: Row, *names: str) -> str:
    """The first of some fields that is there, as stripped text; empty if none is.

    Raises:
        InputError: it is neither text nor a whole number.
    """
    for name in names:
        value = row.get(name)
        if isinstance(value, str | int) and not isinstance(value, bool):
            check_unicode(f"{place}: {name!r}", str(value))
            return str(value).strip()
        if value is not None:
            raise InputError(f"{place}: {name!r} must be text or a whole number, got {shown(row)}")
    return ""


def needed(place: str, row: Row, name: str) -> str:
    """A field that must be there."""
    value = field(place, row, name)
    if not value:
        raise InputError(f"{place}: {name!r} is missing or empty, got {shown(row)}")
    return value


def whole_number(place: str, row: Row, name: str) -> int:
    """A field that must be a whole number."""
    try:
        return int(needed(place, row, name))
    except ValueError as error:
        raise InputError(f"{place}: {name!r} must be a whole number, got {shown(row)}") from error


def put(place: str, what: str, known: dict[str, Value], key: str, value: Value) -> None:
    """Add what must not stand twice in a file."""
    if key in known:
        raise InputError(f"{place}: the {what} {key!r} stands twice; it must be unique")
    known[key] = value


def shown(row: object) -> str:
    """A row in an error message: its beginning."""
    text = json.dumps(row, ensure_ascii=False, default=repr)
    return text if len(text) <= 120 else text[:117] + "..."
