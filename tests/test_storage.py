"""An index on disk is whole, or refused; what is not an index is never touched."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crossknn import storage
from crossknn.errors import IndexFileError, InputError
from crossknn.storage import Contents


def _contents(seed: int = 0) -> Contents:
    rng = np.random.default_rng(seed)
    arrays = {"vectors": rng.normal(size=(7, 3)).astype("f4"), "cells": np.arange(5), "none": np.empty((0, 3))}
    rows = {"items": [{"id": "ü", "text": "line\u2028separator\nand \x85 \x00 🧠"}, {"id": str(seed), "text": "x"}]}
    return Contents({"seed": seed, "scale": 0.1 + seed}, arrays, rows)


def _same(found: Contents, expected: Contents) -> bool:
    arrays = found.arrays.keys() == expected.arrays.keys() and all(
        found.arrays[key].dtype == array.dtype and np.array_equal(found.arrays[key], array)
        for key, array in expected.arrays.items()
    )
    return arrays and dict(found.config) == dict(expected.config) and found.rows == expected.rows


def _data(folder: Path) -> Path:
    (data,) = folder.glob("data-*")
    return data


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_is_saved_is_loaded_memory_mapped(tmp_path: Path) -> None:
    storage.save(tmp_path / "new" / "index", _contents())
    loaded = storage.load(tmp_path / "new" / "index")
    assert _same(loaded, _contents())
    assert isinstance(loaded.arrays["vectors"], np.memmap)
    assert not loaded.arrays["vectors"].flags.writeable


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_names = st.from_regex(r"[a-z_]{1,12}", fullmatch=True)
_shapes = st.tuples(st.sampled_from(["<f4", "<f8", "<i8", "|b1"]), st.lists(st.integers(0, 4), min_size=1, max_size=3))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    config=st.dictionaries(st.text(), _json, max_size=4),
    arrays=st.dictionaries(_names, _shapes, max_size=3),
    rows=st.dictionaries(_names, st.lists(st.dictionaries(st.text(), _json, max_size=3), max_size=4), max_size=3),
)
def test_whatever_is_saved_is_what_is_loaded(
    tmp_path: Path, config: dict[str, Any], arrays: dict[str, Any], rows: dict[str, Any]
) -> None:
    rng = np.random.default_rng(0)
    made = {name: rng.integers(0, 2**31, shape).astype(dtype) for name, (dtype, shape) in arrays.items()}
    contents = Contents(config, made, rows)
    storage.save(tmp_path, contents)  # over the one before
    assert _same(storage.load(tmp_path), contents)


def test_a_reader_that_meets_replacements_reads_again(tmp_path: Path) -> None:
    """Numbers keep their shape, too."""
    contents = Contents({}, {f"a{n}": np.array(n) for n in range(5)}, {"rows": [{"a": 1}]})
    storage.save(tmp_path, contents)
    stop = threading.Event()

    def replace_it() -> None:
        while not stop.is_set():
            storage.save(tmp_path, contents)

    writer = threading.Thread(target=replace_it)
    writer.start()
    try:
        for _ in range(100):
            assert [array.shape for array in storage.load(tmp_path).arrays.values()] == [()] * 5
    finally:
        stop.set()
        writer.join()


def test_saving_again_replaces_and_leaves_no_litter(tmp_path: Path) -> None:
    storage.save(tmp_path, _contents(1))
    (tmp_path / "data-0123456789ab").mkdir()  # what a killed save leaves
    (tmp_path / "manifest.json.123.tmp").write_text("{")
    storage.save(tmp_path, _contents(2))
    assert _same(storage.load(tmp_path), _contents(2))
    assert {path.name for path in tmp_path.iterdir()} == {"manifest.json", _data(tmp_path).name}


@pytest.mark.parametrize("failing_write", range(5))
def test_a_save_that_fails_leaves_the_old_index_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing_write: int
) -> None:
    storage.save(tmp_path, _contents(1))
    before, writes = _tree(tmp_path), 0

    def fsync(file: int) -> None:
        nonlocal writes
        writes += 1
        if writes > failing_write:
            raise OSError(28, "no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="no space left"):
            storage.save(tmp_path, _contents(2))
    assert _tree(tmp_path) == before
    assert _same(storage.load(tmp_path), _contents(1))
    storage.save(tmp_path, _contents(2))
    assert _same(storage.load(tmp_path), _contents(2))


@pytest.mark.parametrize("file", ["vectors.npy", "cells.npy", "none.npy", "items.jsonl"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-2] + bytes([data[-2] ^ 1]) + data[-1:],
        lambda data: bytes([data[0] ^ 1]) + data[1:],
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: None,
    ],
    ids=["a bit at the end", "a bit at the start", "truncated", "longer", "deleted"],
)
def test_a_damaged_data_file_is_refused(tmp_path: Path, file: str, damage: Any) -> None:
    storage.save(tmp_path, _contents())
    path = _data(tmp_path) / file
    damaged = damage(path.read_bytes())
    path.unlink()
    if damaged is not None:
        path.write_bytes(damaged)
    with pytest.raises(IndexFileError, match=rf"{file} is (damaged|missing).*build the index again"):
        storage.load(tmp_path)


def test_without_verification_sizes_and_headers_are_still_checked(tmp_path: Path) -> None:
    storage.save(tmp_path, _contents())
    path = _data(tmp_path) / "vectors.npy"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    storage.load(tmp_path, verify=False)
    for damaged in (data[:-1], data.replace(b"(7, 3)", b"(3, 7)"), data.replace(b"<f4", b">f4"), b"PK\3\4" + data[4:]):
        path.write_bytes(damaged)
        with pytest.raises(IndexFileError, match="damaged"):
            storage.load(tmp_path, verify=False)


def test_no_bit_of_the_manifest_can_flip_and_be_believed(tmp_path: Path) -> None:
    storage.save(tmp_path, _contents())
    path = tmp_path / "manifest.json"
    data = path.read_bytes()
    believed = []
    for position in range(len(data)):
        bit = 1 << position % 7
        path.write_bytes(data[:position] + bytes([data[position] ^ bit]) + data[position + 1 :])
        try:
            if not _same(storage.load(tmp_path), _contents()):
                believed.append(data[max(0, position - 12) : position + 12])
        except IndexFileError:
            continue
    assert not believed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, "version 2, this crossknn reads up to 1; upgrade"),
        ({"format_version": "1"}, "build the index again"),
        ({"kind": "something else"}, "not the manifest of a crossknn index"),
        ({"files": None}, "build the index again"),
        ({"files": {"vectors.npy": {}}}, "build the index again"),
        ({"data": None}, "build the index again"),
        ({"files": []}, "build the index again"),
        ({"config": []}, "build the index again"),
    ],
    ids=["newer", "version", "foreign", "no files", "bare file", "data", "files", "config"],
)
def test_a_manifest_that_says_something_else_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    storage.save(tmp_path, _contents())
    path = tmp_path / "manifest.json"
    manifest = json.loads(path.read_text()) | change
    path.write_text(json.dumps(manifest | {"sha256": storage._digest_manifest(manifest)}))
    with pytest.raises(IndexFileError, match=message):
        storage.load(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", "{", "{}", '"x"'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, content: str) -> None:
    storage.save(tmp_path, _contents())
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(IndexFileError):
        storage.load(tmp_path)


def test_where_no_index_is_the_error_says_so(tmp_path: Path) -> None:
    with pytest.raises(IndexFileError, match=r"no index at .*nothing is there"):
        storage.load(tmp_path / "nowhere")
    with pytest.raises(IndexFileError, match=r"has no manifest\.json"):
        storage.load(tmp_path)


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"data-2024/measurements.csv": "mine"},
        {"manifest.json": '{"kind": "web app"}', "data-icons/icon.svg": "mine"},
        {"manifest.json": '{"name": "web app"}'},
        {"collecting/stamps.txt": "mine"},
    ],
    ids=lambda files: " ".join(files),
)
def test_what_is_no_index_is_never_touched(tmp_path: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    before = _tree(tmp_path)
    with pytest.raises(InputError, match="no crossknn index; choose another place"):
        storage.save(tmp_path, _contents())
    assert _tree(tmp_path) == before


def test_a_file_is_no_place_for_an_index(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="choose another place"):
        storage.save(tmp_path / "file", _contents())
    assert (tmp_path / "file").read_text() == "mine"
