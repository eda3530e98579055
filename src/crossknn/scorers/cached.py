"""Scores kept in an SQLite file, so that no (query, item) pair is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import struct
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import CrossKNNWarning, InputError
from crossknn.pace import next_size
from crossknn.scorers.base import NOTHING_TO_READ, BoundScorer, Fingerprint, Scorer, checked_scores, prepared

_APPLICATION = 0x63724B4E  # "crKN", by which SQLite files of this kind are known
_FORMAT = 2
_WAIT_SECONDS = 30.0
_KEPT_AT_ONCE = 512
"""Scores between two writes, fewest: a crash loses at most these, or what a quick scorer gives in half a second."""
_SCHEMA = """
CREATE TABLE scorers (scorer BLOB PRIMARY KEY, model TEXT NOT NULL, kernel TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE scores (
    scorer BLOB NOT NULL, query BLOB NOT NULL, item BLOB NOT NULL, score REAL NOT NULL, checksum INTEGER NOT NULL,
    PRIMARY KEY (scorer, query, item)
) WITHOUT ROWID;
"""


class CachedScorer:
    """Any scorer, with every score it ever gave kept in a file.

    A score is found again by hashes of the scorer's whole fingerprint (model and kernel) and of the two texts, so
    models never mix, and items may be added, removed or reordered. Several processes and threads may share the file.
    It holds hashes and numbers, no text. Every score has a checksum: one that the disk has changed is scored again.

    Args:
        scorer: what computes the scores that are not there yet.
        path: the SQLite file, made if it is not there; its folder must exist. About 70 bytes a score.

    Attributes:
        hits: pairs answered from the file so far; one that stands twice in a call counts once.
        misses: pairs that the scorer was asked for so far.

    Raises:
        InputError: the file cannot be opened, is something else, or is of another version.

    Cost: a hit is no call of the model. A search's budget counts it all the same, so that what is found never depends
    on what was asked before. A file that fails later (a full disk) costs a warning, never a score.
    """

    def __init__(self, scorer: Scorer, path: str | Path) -> None:
        self._scorer = scorer
        self._path = Path(path)
        self.hits = self.misses = 0
        names = scorer.fingerprint.model, scorer.fingerprint.kernel
        self._row = (_digest(json.dumps(names)), *names)
        with _opened(self._path, create=True) as file, file:
            self._introduce(file)

    @property
    def fingerprint(self) -> Fingerprint:
        """The scorer's own: a score is the same from the file."""
        return self._scorer.fingerprint

    def prepare(self, items: Sequence[str]) -> BoundScorer:
        """Prepare the scorer, and hash the items once. Costs no CE call."""
        return _BoundCached(self, prepared(self._scorer, items), [_digest(text) for text in items])

    def states(self, texts: Sequence[str]) -> FloatArray:
        """The scorer's own hidden states, see :class:`~crossknn.WithStates`; the file keeps none.

        Raises:
            InputError: it has none to show.
        """
        read: Callable[[Sequence[str]], FloatArray] | None = getattr(self._scorer, "states", None)
        if read is None:
            raise InputError(NOTHING_TO_READ.format(type(self._scorer).__name__))
        return read(texts)

    def look_up(self, wanted: Sequence[tuple[bytes, bytes]]) -> dict[tuple[bytes, bytes], float]:
        """Those of the (query hash, item hash) pairs that have a score."""
        try:
            with _opened(self._path) as file:
                file.execute("CREATE TEMP TABLE wanted (query BLOB, item BLOB)")
                file.executemany("INSERT INTO wanted VALUES (?, ?)", wanted)
                found = file.execute(
                    "SELECT query, item, score, checksum FROM wanted JOIN scores USING (query, item) WHERE scorer = ?",
                    self._row[:1],
                ).fetchall()
                changed = [row[:2] for row in found if row[3] is None or self._checksum(*row[:3]) != row[3]]
                if changed:
                    self._forget(file, changed)
        except InputError as error:
            self._warn("read", error)
            return {}
        return {row[:2]: row[2] for row in found if row[:2] not in changed}

    def store(self, rows: Sequence[tuple[bytes, bytes, float]]) -> None:
        """Keep scores; of two processes that scored the same pair, the first wins."""
        try:
            with _opened(self._path) as file, file:
                self._introduce(file)
                values = [(self._row[0], *row, self._checksum(*row)) for row in rows]
                file.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?)", values)
        except InputError as error:
            self._warn("written", error)

    def _introduce(self, file: sqlite3.Connection) -> None:
        file.execute("INSERT OR IGNORE INTO scorers VALUES (?, ?, ?)", self._row)

    def _checksum(self, query: bytes, item: bytes, score: object) -> int | None:
        if not isinstance(score, float):  # SQLite lets a column hold anything, and keeps -0.0 as 0.0
            return None
        return zlib.crc32(struct.pack("<d", score + 0.0) + query + item + self._row[0])

    def _forget(self, file: sqlite3.Connection, pairs: Sequence[tuple[bytes, bytes]]) -> None:
        with file:
            rows = [(self._row[0], *pair) for pair in pairs]
            file.executemany("DELETE FROM scores WHERE scorer = ? AND query = ? AND item = ?", rows)
        warnings.warn(
            f"{len(pairs)} scores in {self._path} are not what was written there, and are scored again: check the disk",
            CrossKNNWarning,
            stacklevel=4,
        )

    def _warn(self, what: str, error: Exception) -> None:
        warnings.warn(
            f"the score cache {self._path} could not be {what} ({error}); going on without it",
            CrossKNNWarning,
            stacklevel=4,
        )


@dataclass(frozen=True)
class _BoundCached:
    cache: CachedScorer
    bound: BoundScorer
    items: Sequence[bytes]

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        texts = [_digest(query) for query in queries]
        keys = [(texts[q], self.items[i]) for q, i in zip(query_indices, item_indices, strict=True)]
        where = {key: n for n, key in reversed(list(enumerate(keys)))}  # equal pairs are scored once, by the first
        known = self.cache.look_up(list(where)) if where else {}
        missing = sorted(n for key, n in where.items() if key not in known)
        self.cache.hits += len(known)
        size = _KEPT_AT_ONCE
        while missing:
            some, missing = missing[:size], missing[size:]
            began = time.perf_counter()
            fresh = checked_scores(self.bound, queries, query_indices[some], item_indices[some])
            size = next_size(size, time.perf_counter() - began, _KEPT_AT_ONCE)
            rows = [(*keys[n], float(score)) for n, score in zip(some, fresh, strict=True)]
            self.cache.store(rows)
            known |= {(query, item): score for query, item, score in rows}
            self.cache.misses += len(some)
        return np.array([known[key] for key in keys], dtype=np.float64)


@dataclass(frozen=True)
class CacheEntry:
    """What a score cache holds of one scorer."""

    fingerprint: Fingerprint
    n_scores: int


def cache_entries(path: str | Path) -> list[CacheEntry]:
    """What a score cache holds, scorer by scorer, the largest first.

    Raises:
        InputError: there is no score cache at ``path``, or it cannot be read.
    """
    with _opened(Path(path)) as file:
        rows = file.execute(
            "SELECT model, kernel, (SELECT COUNT(*) FROM scores WHERE scores.scorer = scorers.scorer) AS n "
            "FROM scorers ORDER BY n DESC, model, kernel"
        ).fetchall()
    return [CacheEntry(Fingerprint(model, kernel), n) for model, kernel, n in rows]


def clear_cache(path: str | Path, model: str | None = None) -> int:
    """Forget all scores of a cache, or those of one model, and give the space back.

    Args:
        path: the file; it stays, other processes may have it open.
        model: forget the scorers whose ``fingerprint.model`` this is; None forgets all.

    Returns:
        How many scores were forgotten.

    Raises:
        InputError: there is no score cache at ``path``, or it cannot be written (a full disk, another process that
            writes for long).
    """
    with _opened(Path(path)) as file:
        with file:
            forgotten = file.execute(
                "DELETE FROM scores WHERE scorer IN (SELECT scorer FROM scorers WHERE ?1 IS NULL OR model = ?1)",
                (model,),
            ).rowcount
        file.execute("VACUUM")
    return forgotten


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


@contextmanager
def _opened(path: Path, *, create: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection for one use: cheap beside a CE call, and safe in any thread and after a fork."""
    if not create and not path.exists():
        raise InputError(f"there is no score cache at {path}")
    try:
        file = sqlite3.connect(path, timeout=_WAIT_SECONDS)
    except sqlite3.Error as error:
        raise InputError(f"cannot open the score cache {path}: {error}; its folder must exist") from error
    try:
        _check_kind(file, path, create)
        yield file
    except sqlite3.Error as error:
        raise InputError(f"{path} cannot be used as a score cache: {error}") from error
    finally:
        file.close()


def _check_kind(file: sqlite3.Connection, path: Path, create: bool) -> None:
    """Make the tables in a new file; refuse a foreign, damaged or newer one."""
    with file:
        file.execute("BEGIN IMMEDIATE" if create else "BEGIN")
        empty = file.execute("SELECT COUNT(*) FROM sqlite_master").fetchone() == (0,)
        if create and empty:
            for statement in _SCHEMA.strip().split(";\n"):
                file.execute(statement)
            file.execute(f"PRAGMA application_id = {_APPLICATION}")
            file.execute(f"PRAGMA user_version = {_FORMAT}")
        application = file.execute("PRAGMA application_id").fetchone()[0]
        version = file.execute("PRAGMA user_version").fetchone()[0]
    if application != _APPLICATION:
        raise InputError(f"{path} is no score cache of crossknn; choose another file")
    if version > _FORMAT:
        raise InputError(f"{path} has format {version}, this crossknn reads up to {_FORMAT}; upgrade crossknn")
    if version < _FORMAT:
        raise InputError(f"{path} has format {version}, of before crossknn's first release; delete it")
    if create:
        file.execute("PRAGMA journal_mode = WAL")  # kept by the file; readers do not wait for a writer
    file.execute("PRAGMA synchronous = NORMAL")
