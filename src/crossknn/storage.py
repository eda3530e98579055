"""An index on disk: a folder with ``manifest.json`` and one data folder that the manifest names.

Saving writes a new data folder beside the old one and then replaces the manifest in one rename, so at any moment the
manifest names a data folder that is whole. Old data folders are removed afterwards. No pickle anywhere.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.errors import IndexFileError, InputError
from crossknn.files import LOCK, write_aside, writing
from crossknn.fingerprints import digest_file

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
COLLECTING = "collecting"
REFINED = "refined"
PREPARED = "prepared"
TUNING = "tuning.sqlite"
"""Scores that tuning has paid for, until an index is written."""
INDEX = "index"
_KIND = "crossknn {}"
_DATA = re.compile(r"data-[0-9a-f]{12}")


@dataclass(frozen=True)
class Contents:
    """What an index holds on disk.

    Attributes:
        config: anything JSON can say.
        arrays: name to array; loaded memory-mapped.
        rows: name to list of JSON objects (kept as JSON lines).
    """

    config: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    rows: Mapping[str, list[dict[str, Any]]]


def save(folder: Path, contents: Contents, kind: str = INDEX) -> None:
    """Write an index, replacing one that is there. A crash at any moment leaves the old one whole.

    Args:
        folder: made where it is not there.
        contents: of the index.
        kind: :data:`INDEX`, or what else is kept in this form and must not be taken for one.

    Raises:
        InputError: the folder holds something else than an index.
        WriteError: the disk is full or read-only; the old index stays.
    """
    check_place(folder)
    name = f"data-{uuid.uuid4().hex[:12]}"
    with writing(folder):
        _write(folder, name, contents, kind)
    for old in folder.iterdir():
        if _DATA.fullmatch(old.name) and old.name != name:
            shutil.rmtree(old, ignore_errors=True)
        elif _is_aside(old.name) or _is_tuning(old.name):
            old.unlink(missing_ok=True)


def _write(folder: Path, name: str, contents: Contents, kind: str) -> None:
    """A new data folder, and then the manifest that names it."""
    data = folder / name
    data.mkdir(parents=True)
    try:
        files: dict[str, dict[str, Any]] = {}
        for key, array in contents.arrays.items():
            _write_array(data / f"{key}.npy", array)
            files[f"{key}.npy"] = {"shape": list(array.shape), "dtype": array.dtype.str}
        for key, rows in contents.rows.items():
            _write_rows(data / f"{key}.jsonl", rows)
            files[f"{key}.jsonl"] = {"rows": len(rows)}
        for file, entry in files.items():
            entry |= {"bytes": (data / file).stat().st_size, "sha256": digest_file(data / file)}
        manifest = {
            "kind": _KIND.format(kind),
            "format_version": FORMAT_VERSION,
            "data": name,
            "files": files,
            "config": dict(contents.config),
        }
        manifest["sha256"] = _digest_manifest(manifest)
        write_aside(folder / MANIFEST, (json.dumps(manifest, indent=2) + "\n").encode())
    except BaseException:
        shutil.rmtree(data, ignore_errors=True)
        raise


def load(folder: Path, kind: str = INDEX, *, verify: bool = True, in_memory: bool = False) -> Contents:
    """Read an index.

    Args:
        folder: where :func:`save` wrote.
        kind: what.
        verify: compare every file's checksum (about a second per gigabyte). Sizes are compared in any case.
        in_memory: read arrays rather than map them: what then becomes of the files does not matter.

    Raises:
        IndexFileError: there is no index, it is damaged, or a newer version of crossknn wrote it.
    """
    manifest = read_manifest(folder, kind)
    try:
        return _read(folder, manifest, verify=verify, in_memory=in_memory)
    except IndexFileError:
        if read_manifest(folder, kind)["data"] == manifest["data"]:
            raise
    return load(folder, kind, verify=verify, in_memory=in_memory)  # it was replaced while it was being read


def _read(folder: Path, manifest: Mapping[str, Any], *, verify: bool, in_memory: bool) -> Contents:
    data = folder / str(manifest["data"])
    arrays: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for file, entry in manifest["files"].items():
        path = data / file
        try:
            _check_file(path, entry, verify=verify)
            if path.suffix == ".npy":
                array: np.ndarray = np.lib.format.open_memmap(path, mode="r")
                array = np.array(array) if in_memory else array
                if list(array.shape) != entry["shape"] or array.dtype.str != entry["dtype"]:
                    raise ValueError(f"holds {array.dtype} {array.shape}, not {entry['dtype']} {entry['shape']}")
                arrays[path.stem] = array
            else:
                lines = path.read_text(encoding="utf-8").splitlines()
                rows[path.stem] = [json.loads(line) for line in lines]
        except (OSError, ValueError, KeyError) as error:
            raise IndexFileError(f"{path} is damaged: {error}; build the index again") from error
    return Contents(manifest["config"], arrays, rows)


def read_manifest(folder: Path, kind: str = INDEX) -> dict[str, Any]:
    """The manifest of an index, checked for kind and version.

    Raises:
        IndexFileError: see :func:`load`.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise IndexFileError(f"there is no index at {folder}: {_what_is_there(folder)}")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise IndexFileError(f"{path} is damaged ({error}); build the index again") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != _KIND.format(kind):
        raise IndexFileError(f"{path} is not the manifest of a crossknn index")
    version = manifest.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise IndexFileError(
            f"{folder} has format version {version}, this crossknn reads up to {FORMAT_VERSION}; upgrade crossknn"
        )
    if manifest.get("sha256") != _digest_manifest(manifest):
        raise IndexFileError(f"{path} is damaged: its contents do not fit its checksum; build the index again")
    files = manifest.get("files")
    entries = list(files.values()) if isinstance(files, dict) else [None]
    named = all(isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys() for entry in entries)
    if not (named and isinstance(version, int) and isinstance(manifest.get("config"), dict) and "data" in manifest):
        raise IndexFileError(f"{path} does not say all that a manifest must; build the index again")
    return manifest


def version_of(folder: Path) -> str:
    """What tells the index in a folder from any that was there before.

    Raises:
        IndexFileError: see :func:`load`.
    """
    return str(read_manifest(folder)["data"])


_UNFINISHED = "its build did not finish; run the same build again, and it goes on from what it has"


def _what_is_there(folder: Path) -> str:
    """What stands in place of an index, and what to do about it."""
    if not folder.exists():
        return "nothing is there; crossknn build makes one"
    for owner in folder.absolute().parents[:2]:
        if (owner / MANIFEST).is_file() and is_replaceable(owner):
            return f"it is a part of the index {owner}; name that"
    if not folder.is_dir():
        return "it is a file, and an index is a folder; crossknn build makes one"
    names = sorted(path.name for path in folder.iterdir())
    if COLLECTING in names or (folder.name == COLLECTING and names and _is_ledger(folder)):
        return _UNFINISHED
    if any(name.endswith((".onnx", ".safetensors")) or name in ("onnx", "tokenizer.json") for name in names):
        return "it holds a model; --scorer and --first-stage name models, and crossknn build makes an index with them"
    indexes = [name for name in names if (folder / name / MANIFEST).is_file()]
    if indexes:
        return f"the folder has one in it; name {' or '.join(str(folder / name) for name in indexes[:3])}"
    return f"the folder has no {MANIFEST}; crossknn build makes one"


def check_place(folder: Path) -> None:
    """Make sure that an index may be written to a folder.

    Raises:
        InputError: something else is there, or an index that a newer crossknn wrote.
    """
    if folder.exists() and not is_replaceable(folder):
        raise InputError(f"{folder} exists and is no crossknn index; choose another place")
    version = _version(folder / MANIFEST)
    if version > FORMAT_VERSION:
        raise InputError(
            f"{folder} holds an index of format version {version}, which a newer crossknn wrote; choose another place, "
            "or upgrade crossknn"
        )


def _version(path: Path) -> int:
    """Format version that a manifest says it has; 0 where it cannot be read."""
    try:
        version = json.loads(path.read_text(encoding="utf-8"))["format_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return 0
    return version if isinstance(version, int) else 0


def is_replaceable(folder: Path) -> bool:
    """Whether a folder is empty, or an index, or what an unfinished build or tuning left: nothing of anybody else's is
    lost."""
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    ours = all(
        name in (MANIFEST, COLLECTING, LOCK) or _DATA.fullmatch(name) or _is_aside(name) or _is_tuning(name)
        for name in names
    )
    known = MANIFEST not in names or any(_DATA.fullmatch(name) for name in names) or _is_readable(folder)
    return ours and known and _is_ledger(folder / COLLECTING)


def _is_readable(folder: Path) -> bool:
    try:
        read_manifest(folder)
    except IndexFileError:
        return False
    return True


def remove_ledger(folder: Path) -> None:
    """Remove the scores that a finished build collected, what it prepared, and nothing else that may stand there.

    What marks them as a run's goes first: shards that a crash leaves behind then belong to none.
    """
    collecting = folder / COLLECTING
    if collecting.is_dir() and _is_ledger(collecting):
        for ledger in (collecting / REFINED, collecting):  # without its manifest a shard is never read again
            (ledger / "ledger.json").unlink(missing_ok=True)
        shutil.rmtree(collecting, ignore_errors=True)


def _is_ledger(folder: Path) -> bool:
    entries = list(folder.iterdir()) if folder.is_dir() else []
    return all(
        entry.name.startswith(("ledger.json", "shard-"))
        or (entry.name == REFINED and _is_ledger(entry))
        or (entry.name == PREPARED and is_replaceable(entry))
        for entry in entries
    )


def _is_aside(name: str) -> bool:
    return name.startswith(MANIFEST) and name.endswith(".tmp")


def _is_tuning(name: str) -> bool:
    return name in (TUNING, f"{TUNING}-wal", f"{TUNING}-shm")


def _digest_manifest(manifest: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _check_file(path: Path, entry: Mapping[str, Any], *, verify: bool) -> None:
    if not path.exists():
        raise IndexFileError(f"{path} is missing; build the index again")
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise IndexFileError(f"{path} is damaged: {size} bytes instead of {entry['bytes']}; build the index again")
    if verify and digest_file(path) != entry["sha256"]:
        raise IndexFileError(f"{path} is damaged: its checksum is not the one in the manifest; build the index again")


def _write_array(path: Path, array: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, np.asarray(array, order="C"), allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())


def _write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
