"""What is on disk survives: kill -9 at any moment, a full disk, a place that cannot be written, two builds at once."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import FunctionScorer, RandomFirstStage, ReplayScorer, storage
from crossknn.errors import InputError, WriteError
from crossknn.files import sole_writer
from crossknn.index import BuildOptions, Index
from crossknn.scores import PerQuery

KILLS = int(os.environ.get("CROSSKNN_KILLS", "25"))
OPTIONS = BuildOptions(plan=PerQuery(top=10, uniform=10), shard_size=8)
ITEMS = [f"item {n}" for n in range(60)]

_BUILDS = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
from crossknn import FunctionScorer, RandomFirstStage
from crossknn.index import BuildOptions, Index
from crossknn import pace
from crossknn.scores import PerQuery

pace._SECONDS = 0  # shards do not grow
folder, log, kills = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
options = BuildOptions(plan=PerQuery(top=8, uniform=4), refine=8, shard_size=8)  # a second pass too
items = [f"item {n}" for n in range(60)]

def score(pairs):
    time.sleep(0.0005 * len(pairs))
    with log.open("a") as file:
        file.writelines(f"{query}|{item}\\n" for query, item in pairs)
    return [score_of(*pair) for pair in pairs]

def score_of(query, item):
    return float(hash((query, item)) % 1000)

scorer = FunctionScorer(score, name="slow", batch_size=4)

def queries(generation):
    return [f"query {generation} {n}" for n in range(6)]

def build(generation):
    Index.build(items, queries=queries(generation), scorer=scorer, first_stage=RandomFirstStage(), out=folder,
                options=options)

def shards():
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("collecting/**/shard-*.bin")}
    return {name: content for name, content in found.items() if left.get(name) != content}

start = time.monotonic()
build(0)
usual = time.monotonic() - start
finished, killed, draw, left = 0, 0, random.Random(0), {}
while killed < kills:
    before = shards()
    child = os.fork()
    if child == 0:
        build(finished + 1)
        os._exit(0)
    time.sleep(draw.uniform(0, 1.1 * usual))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    killed += os.WIFSIGNALED(status)
    index = Index.load(folder, scorer=scorer, first_stage=RandomFirstStage())
    saved = int(index.train_queries[0].split()[1])
    assert saved in (finished, finished + 1), (saved, finished)
    assert index.train_queries == queries(saved)
    found = index.train_scores
    assert len(found.values) == 120
    asked = zip(found.query_indices, found.item_indices)
    assert found.values.tolist() == [score_of(index.train_queries[q], items[i]) for q, i in asked]
    if status == 0:
        assert saved == finished + 1
        finished += 1
        assert not shards()
    elif saved == finished:
        now = shards()
        assert all(now.get(name) == content for name, content in before.items())
        assert all(len(content) == 32 + 8 * 8 for content in now.values())
    else:  # killed between saving and removing the ledger
        if (folder / "collecting" / "ledger.json").exists():
            build(saved)  # nothing is left to pay
        left = {}
        left = shards()  # of a finished build
        finished += 1
build(finished + 1)
print(finished + 1, usual)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_kill_9_again_and_again_loses_no_finished_score_and_no_index(tmp_path: Path) -> None:
    log = tmp_path / "asked"
    command = [sys.executable, "-c", _BUILDS, str(tmp_path / "x.crossknn"), str(log), str(KILLS)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, env=os.environ | {"PYTHONHASHSEED": "0"})
    assert ran.returncode == 0, ran.stderr
    generations = int(ran.stdout.split()[0]) + 1
    asked = log.read_text().splitlines()
    distinct = set(asked)
    assert len(distinct) == 120 * generations
    # a kill loses the shard under way and no other
    assert len(asked) - len(distinct) <= OPTIONS.shard_size * KILLS


def _build(out: Path, generation: int = 0) -> ReplayScorer:
    queries = [f"query {generation} {n}" for n in range(6)]
    scorer = ReplayScorer(np.random.default_rng(generation).normal(size=(6, 60)), queries, ITEMS)
    Index.build(ITEMS, queries=queries, scorer=scorer, first_stage=RandomFirstStage(), out=out, options=OPTIONS)
    return scorer


@pytest.mark.parametrize("limit", [50, 100, 1000, 2000])
def test_a_full_disk_is_said_and_leaves_the_old_index(tmp_path: Path, limit: int) -> None:
    resource = pytest.importorskip("resource")
    scorer = _build(tmp_path / "x.crossknn")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, usual[1]))  # no file may grow beyond; Python gets EFBIG
    try:
        with pytest.raises(WriteError, match=r"cannot write .*x\.crossknn.*: (File too large|No space left)"):
            _build(tmp_path / "x.crossknn", 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    index = Index.load(tmp_path / "x.crossknn", scorer=scorer, first_stage=RandomFirstStage())
    assert index.train_queries[0] == "query 0 0"
    _build(tmp_path / "x.crossknn", 1)
    assert len(list((tmp_path / "x.crossknn").glob("data-*"))) == 1


def test_a_place_that_cannot_be_written_is_refused_before_a_call_is_spent(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write .*x\.crossknn: Not a directory"):
        _build(tmp_path / "file" / "x.crossknn")


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_disk_is_said_before_a_call_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    """Root may write where modes forbid it, so the disk is played."""
    out = tmp_path / "x.crossknn"
    scorer = _build(out) if there else None
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    for name in ("mkdir", "open", "replace", "rename", "unlink", "rmdir"):
        usual = getattr(os, name)

        def played(path: Any, *rest: Any, usual: Any = usual, name: str = name, **more: Any) -> Any:
            inside = str(path).startswith(str(out))
            return refuse() if inside and (name != "open" or rest[0] & writes) else usual(path, *rest, **more)

        monkeypatch.setattr(os, name, played)
    asked: list[Any] = []
    with pytest.raises(WriteError, match=r"cannot write .*x\.crossknn.*: Read-only file system"):
        Index.build(
            ITEMS,
            queries=["new"],
            scorer=FunctionScorer(lambda pairs: [asked.append(p) or 0.0 for p in pairs], name="counted"),
            first_stage=RandomFirstStage(),
            out=out,
        )
    assert not asked
    monkeypatch.undo()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == files
    if scorer is not None:
        Index.load(out, scorer=scorer, first_stage=RandomFirstStage())


def test_an_index_of_a_newer_version_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "x.crossknn"
    _build(out)
    manifest = json.loads((out / storage.MANIFEST).read_text())
    (out / storage.MANIFEST).write_text(json.dumps(manifest | {"format_version": 99}))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match="format version 99, which a newer crossknn wrote"):
        _build(out, 1)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_two_builds_into_one_place_do_not_meet(tmp_path: Path) -> None:
    out = tmp_path / "x.crossknn"
    scorer = _build(out)
    index = Index.load(out, scorer=scorer, first_stage=RandomFirstStage())
    with sole_writer(out):
        for write in (lambda: _build(out, 1), lambda: index.save(out)):
            with pytest.raises(WriteError, match="another command"):
                write()
    assert not (out / storage.COLLECTING).exists()
    _build(out, 1)


def test_an_index_replaced_while_it_is_read_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(tmp_path)
    read, meanwhile = storage._read, [1]

    def slow_read(folder: Path, manifest: Mapping[str, Any], **how: bool) -> storage.Contents:
        while meanwhile:
            _build(tmp_path, meanwhile.pop())
        return read(folder, manifest, **how)

    monkeypatch.setattr(storage, "_read", slow_read)
    assert storage.load(tmp_path).rows["train_queries"][0] == {"text": "query 1 0"}
