"""A ledger of scores on disk: many pairs scored in shards, so that no crash loses a finished one.

A quick scorer (a GPU's) is given more pairs at once, until they take it half a second, so that neither its time nor the
disk's goes into many small calls.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.files import make_folder, write_aside
from crossknn.fingerprints import digest_arrays, digest_texts
from crossknn.pace import next_size
from crossknn.scorers.base import Scorer, checked_scores, prepared
from crossknn.scores.plan import Pairs

_FORMAT = 2
_MANIFEST = "ledger.json"

ProgressCallback = Callable[[int, int], None]
"""Called with the CE calls done and the CE calls in all, finished earlier ones included."""


def collect_scores(
    pairs: Pairs,
    queries: Sequence[str],
    items: Sequence[str],
    scorer: Scorer,
    folder: Path,
    *,
    shard_size: int = 2048,
    progress: ProgressCallback | None = None,
) -> FloatArray:
    """Score pairs into a folder, shard by shard; a second call with the same pairs scores only what is missing.

    A shard is written aside and renamed, so whatever stands in the folder is whole. Run again after a crash, it repeats
    at most one shard: ``shard_size`` pairs, or up to 64 times as many of a scorer that takes less than half a second
    for them.

    Args:
        pairs: what to score.
        queries: query texts.
        items: item texts.
        scorer: scores them; its fingerprint is part of the folder.
        folder: made if it is not there. One folder holds one run.
        shard_size: fewest pairs per file.
        progress: told after every shard.

    Returns:
        (len(pairs),) float64 scores, in the order of the pairs.

    Raises:
        InputError: the folder holds scores of other pairs, texts or another scorer.
        ScorerError: the scorer failed; the finished shards stay.
        WriteError: the disk is full or read-only; the finished shards stay.

    Cost: one CE call per pair that no earlier run has finished.
    """
    contents = _contents(queries, items, scorer, len(pairs), shard_size)
    run = _open_ledger(folder, contents | {"pairs": digest_arrays(pairs.query_indices, pairs.item_indices)})
    scores = np.full(len(pairs), np.nan)
    for start, stored in _shards(folder, run, len(pairs), shard_size):
        scores[start : start + len(stored)] = stored
    done = int(np.sum(~np.isnan(scores)))
    if progress:
        progress(done, len(pairs))
    if done < len(pairs):
        bound, size = prepared(scorer, items), shard_size
        for start, stop in _gaps(scores):
            while start < stop:
                began = time.perf_counter()
                shard = slice(start, min(start + size, stop))
                used, local = np.unique(pairs.query_indices[shard], return_inverse=True)
                values = checked_scores(bound, [queries[q] for q in used], local, pairs.item_indices[shard])
                _write_shard(_shard_path(folder, start), run, values)
                size = next_size(size, time.perf_counter() - began, shard_size)
                scores[shard] = values
                start, done = start + len(values), done + len(values)
                if progress:
                    progress(done, len(pairs))
    return scores


def _gaps(scores: FloatArray) -> list[tuple[int, int]]:
    """Where scores are missing: from each first one to behind the last."""
    edges = np.flatnonzero(np.diff(np.isnan(scores), prepend=False, append=False))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def finished_calls(
    folder: Path,
    queries: Sequence[str] | None,
    items: Sequence[str],
    scorer: Scorer,
    n_pairs: int | None,
    shard_size: int,
) -> int:
    """CE calls that :func:`collect_scores` would find done in a folder; 0 where there is none.

    Which pairs they are is not compared, since nothing is planned here: another plan or seed of the same price is only
    refused when the scores are collected.

    Args:
        folder, items, scorer, shard_size: as there.
        queries, n_pairs: as there; None where only the folder knows which, or how many.

    Raises:
        InputError: the folder holds scores of other texts, another scorer or another number of pairs.
    """
    if not has_ledger(folder):
        return 0
    contents = _contents(queries or (), items, scorer, n_pairs or 0, shard_size)
    unknown = {name for name, value in (("queries", queries), ("n_pairs", n_pairs)) if value is None}
    run = _check_ledger(folder, {name: value for name, value in contents.items() if name not in unknown})
    n_pairs = n_pairs if n_pairs is not None else int(_stored(folder).get("n_pairs", 0))
    return sum(len(scores) for _, scores in _shards(folder, run, n_pairs, shard_size))


def has_ledger(folder: Path) -> bool:
    """Whether :func:`collect_scores` has begun in a folder."""
    return (folder / _MANIFEST).exists()


def _contents(
    queries: Sequence[str], items: Sequence[str], scorer: Scorer, n_pairs: int, shard_size: int
) -> dict[str, object]:
    return {
        "format": _FORMAT,
        "scorer": {"model": scorer.fingerprint.model, "kernel": scorer.fingerprint.kernel},
        "items": digest_texts(items),
        "queries": digest_texts(queries),
        "n_pairs": n_pairs,
        "shard_size": shard_size,
    }


def _open_ledger(folder: Path, contents: dict[str, object]) -> bytes:
    """Make the folder, or make sure that it holds the very run that is asked for; returns what marks its shards."""
    manifest = folder / _MANIFEST
    if not manifest.exists():
        make_folder(folder)
        write_aside(manifest, (json.dumps(contents, indent=2) + "\n").encode())
    return _check_ledger(folder, contents)


def _stored(folder: Path) -> dict[str, Any]:
    """What a ledger says of its run."""
    manifest = folder / _MANIFEST
    try:
        stored = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{manifest} cannot be read ({error}); delete the folder {folder} to score anew") from error
    if not isinstance(stored, dict):
        raise InputError(f"{manifest} holds no ledger; delete the folder {folder} to score anew")
    return stored


def _check_ledger(folder: Path, contents: dict[str, object]) -> bytes:
    stored = _stored(folder)
    for key, value in contents.items():
        if stored.get(key) != value:
            raise InputError(
                f"{folder} holds scores of another run: {_difference(key, stored.get(key), value)}; go on with the "
                "same input and scorer, or delete the folder (its scores are lost then)"
            )
    return json.dumps(stored, sort_keys=True).encode()


def _difference(key: str, stored: object, now: object) -> str:
    """What differs, in words; hashes tell a reader nothing."""
    said = {
        "items": "other items",
        "queries": "other queries",
        "n_pairs": f"{stored} pairs, not {now} (plan or cap differ)",
        "pairs": "other pairs (plan, seed or cap differ)",
    }
    return f"it scored {said[key]}" if key in said else f"its {key} was {stored}, now it is {now}"


def _shard_path(folder: Path, start: int) -> Path:
    return folder / f"shard-{start:010d}.bin"


def _shards(folder: Path, run: bytes, n_pairs: int, shard_size: int) -> Iterator[tuple[int, FloatArray]]:
    """Where each whole shard starts, and its scores: of ``shard_size`` pairs, a multiple of them, or the last ones."""
    start = 0
    while start < n_pairs:
        stored = _read_shard(_shard_path(folder, start), run, n_pairs - start)
        if stored is not None:
            yield start, stored
        start += shard_size if stored is None else len(stored)


def _read_shard(path: Path, run: bytes, most: int) -> FloatArray | None:
    """The shard's scores, or None where it is missing, damaged or left by another run (it is scored again then)."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, data = content[:32], content[32:]
    if len(data) % 8 or not 0 < len(data) // 8 <= most or hashlib.sha256(run + data).digest() != digest:
        return None
    return np.frombuffer(data, dtype="<f8")


def _write_shard(path: Path, run: bytes, values: FloatArray) -> None:
    """SHA-256 of the run and the data (32 bytes), then the scores as little-endian float64."""
    data = values.astype("<f8").tobytes()
    write_aside(path, hashlib.sha256(run + data).digest() + data)
