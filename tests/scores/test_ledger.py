"""The ledger: no crash loses a finished shard, no foreign or damaged score is believed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossknn import FunctionScorer, PerQuery, pace
from crossknn.errors import InputError, ScorerError
from crossknn.scorers import Fingerprint
from crossknn.scores import Pairs, collect_scores
from crossknn.scores.ledger import finished_calls

SHARD = 10


@pytest.fixture(autouse=True)
def _of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards do not grow, however quick a test's scorer is."""
    monkeypatch.setattr(pace, "_SECONDS", 0)


@pytest.fixture
def pairs(world: Any) -> Pairs:
    first = world.query_vectors @ world.item_vectors.T
    return PerQuery(3, 1).pairs([first], first.shape, np.random.default_rng(0))  # 48 pairs: 5 shards, the last of 8


def _collect(world: Any, pairs: Pairs, folder: Path, **changed: Any) -> np.ndarray:
    arguments = {"queries": world.queries, "items": world.items, "scorer": world.scorer, "shard_size": SHARD}
    return collect_scores(pairs, folder=folder, **(arguments | changed))


def _expected(world: Any, pairs: Pairs) -> np.ndarray:
    expected: np.ndarray = world.scores[pairs.query_indices, pairs.item_indices]
    return expected


def _texts(world: Any, pairs: Pairs, start: int = 0, stop: int | None = None) -> list[tuple[str, str]]:
    cells = list(zip(pairs.query_indices, pairs.item_indices, strict=True))[start:stop]
    return [(world.queries[q], world.items[i]) for q, i in cells]


def test_every_pair_is_scored_once_and_a_second_run_scores_none(world: Any, pairs: Pairs, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    scores = _collect(world, pairs, tmp_path / "new" / "ledger", progress=lambda *at: told.append(at))
    np.testing.assert_array_equal(scores, _expected(world, pairs))
    assert sorted(world.calls) == sorted(_texts(world, pairs))
    assert told == [(0, 48), (10, 48), (20, 48), (30, 48), (40, 48), (48, 48)]
    world.calls.clear()
    again = _collect(world, pairs, tmp_path / "new" / "ledger", progress=lambda *at: told.append(at))
    np.testing.assert_array_equal(again, scores)
    assert not world.calls
    assert told[-1] == (48, 48)


def test_a_quick_scorer_is_given_more_at_once_and_a_slow_one_less(
    world: Any, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, took = [0.0], iter([0.4, 0.6, 2.5, 0.1, 0.6, 0.6])
    monkeypatch.setattr(pace, "_SECONDS", 1)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    sizes: list[int] = []

    def score(batch: Any) -> list[float]:
        sizes.append(len(batch))
        now[0] += next(took)
        return list(world._score(batch))

    scorer = FunctionScorer(score, name=world.name, batch_size=1000)
    scores = _collect(world, pairs, tmp_path, scorer=scorer, shard_size=5)
    np.testing.assert_array_equal(scores, _expected(world, pairs))
    assert sizes == [5, 10, 10, 5, 10, 8]


def test_a_scorer_that_was_quick_is_not_given_everything_that_is_left(
    world: Any, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_SECONDS", 1000)
    monkeypatch.setattr(pace, "_MOST_TIMES", 4)
    told: list[int] = []
    _collect(world, pairs, tmp_path, shard_size=2, progress=lambda done, _: told.append(done))
    assert told == [0, 2, 6, 14, 22, 30, 38, 46, 48]


@pytest.mark.parametrize("damaged", [0, 5, 15])
def test_a_large_shard_that_is_damaged_is_scored_again(
    world: Any, pairs: Pairs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damaged: int
) -> None:
    monkeypatch.setattr(pace, "_SECONDS", 1000)
    sizes = {0: 5, 5: 10, 15: 20, 35: 13}
    scores = _collect(world, pairs, tmp_path, shard_size=5)
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == [f"shard-{start:010d}.bin" for start in sizes]
    (tmp_path / f"shard-{damaged:010d}.bin").write_bytes(b"")
    kept = len(pairs) - sizes[damaged]
    assert finished_calls(tmp_path, world.queries, world.items, world.scorer, len(pairs), 5) == kept
    world.calls.clear()
    monkeypatch.setattr(pace, "_SECONDS", 0)
    np.testing.assert_array_equal(_collect(world, pairs, tmp_path, shard_size=5), scores)
    assert sorted(world.calls) == sorted(_texts(world, pairs, damaged, damaged + sizes[damaged]))
    assert finished_calls(tmp_path, world.queries, world.items, world.scorer, len(pairs), 5) == len(pairs)


def _falls_off(scores: list[float]) -> list[float]:
    raise RuntimeError("the GPU fell off")


@pytest.mark.parametrize(
    ("spoilt", "message"),
    [
        (_falls_off, "the GPU fell off"),
        (lambda scores: scores[1:], "scores for"),
        (lambda scores: [*scores, 0.0], "scores for"),
        (lambda scores: [*scores[1:], float("nan")], "finite"),
        (lambda scores: [float("-inf"), *scores[1:]], "finite"),
    ],
    ids=["raises", "too few", "too many", "nan", "infinite"],
)
def test_a_scorer_that_fails_in_the_middle_keeps_the_finished_shards(
    world: Any, pairs: Pairs, tmp_path: Path, spoilt: Any, message: str
) -> None:
    def failing(batch: Any) -> list[float]:
        if len(world.calls) < 2 * SHARD:
            return list(world._score(batch))
        return list(spoilt([0.0] * len(batch)))

    with pytest.raises(ScorerError, match=message):
        _collect(world, pairs, tmp_path, scorer=FunctionScorer(failing, name=world.name))
    world.calls.clear()
    np.testing.assert_array_equal(_collect(world, pairs, tmp_path), _expected(world, pairs))
    assert sorted(world.calls) == sorted(_texts(world, pairs, 2 * SHARD))


def _flip(data: bytes) -> bytes:
    return data[:-3] + bytes([data[-3] ^ 1]) + data[-2:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: None,
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"PK\x03\x04" + data[4:],
        lambda data: data[:32] + data[:31:-1],
        lambda data: bytes(32) + data[32:],
        _flip,
    ],
    ids=["gone", "empty", "a byte short", "half", "foreign", "byte order", "checksum", "a bit flipped"],
)
def test_a_damaged_shard_is_scored_again(world: Any, pairs: Pairs, tmp_path: Path, damage: Any) -> None:
    _collect(world, pairs, tmp_path)
    world.calls.clear()
    shard = sorted(tmp_path.glob("shard-*"))[1]
    damaged = damage(shard.read_bytes())
    shard.unlink()
    if damaged is not None:
        shard.write_bytes(damaged)
    assert finished_calls(tmp_path, world.queries, world.items, world.scorer, len(pairs), SHARD) == len(pairs) - SHARD
    np.testing.assert_array_equal(_collect(world, pairs, tmp_path), _expected(world, pairs))
    assert sorted(world.calls) == sorted(_texts(world, pairs, SHARD, 2 * SHARD))
    assert finished_calls(tmp_path, world.queries, world.items, world.scorer, len(pairs), SHARD) == len(pairs)


@pytest.mark.parametrize("what", ["scorer", "pairs", "queries", "items", "shard_size"])
def test_another_run_is_refused_and_nothing_is_lost(
    world: Any, make_world: Any, pairs: Pairs, tmp_path: Path, what: str
) -> None:
    _collect(world, pairs, tmp_path)
    changed: dict[str, Any] = {
        "scorer": {"scorer": make_world(name="other").scorer},
        "queries": {"queries": world.queries[::-1]},
        "items": {"items": [*world.items[:-1], "another"]},
        "shard_size": {"shard_size": SHARD + 1},
        "pairs": {},
    }[what]
    other = pairs.capped(47) if what == "pairs" else pairs
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=rf"another run: it.* {what}.*delete the folder"):
        _collect(world, other, tmp_path, **changed)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_shards_that_another_run_left_behind_are_not_believed(
    world: Any, make_world: Any, pairs: Pairs, tmp_path: Path
) -> None:
    _collect(make_world(seed=1, name="other"), pairs, tmp_path)
    (tmp_path / "ledger.json").unlink()
    np.testing.assert_array_equal(_collect(world, pairs, tmp_path), _expected(world, pairs))


def test_a_kernel_is_part_of_the_run(world: Any, pairs: Pairs, tmp_path: Path) -> None:
    _collect(world, pairs, tmp_path)
    scorer = world.scorer
    scorer.fingerprint = Fingerprint(scorer.fingerprint.model, "another kernel")
    with pytest.raises(InputError, match="another run"):
        _collect(world, pairs, tmp_path, scorer=scorer)


@pytest.mark.parametrize("content", ["", "[]", "{}", "\x00"])
def test_a_damaged_manifest_is_refused(world: Any, pairs: Pairs, tmp_path: Path, content: str) -> None:
    _collect(world, pairs, tmp_path)
    (tmp_path / "ledger.json").write_text(content)
    with pytest.raises(InputError, match="delete the folder"):
        _collect(world, pairs, tmp_path)


def test_shards_without_a_manifest_are_never_believed(
    world: Any, make_world: Any, pairs: Pairs, tmp_path: Path
) -> None:
    _collect(world, pairs, tmp_path)
    (tmp_path / "ledger.json").unlink()  # as a kill in the middle of removing a ledger leaves it
    other = make_world(seed=1, name="other")
    np.testing.assert_array_equal(_collect(other, pairs, tmp_path), _expected(other, pairs))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_never_written(world: Any, pairs: Pairs, tmp_path: Path, bad: float) -> None:
    scorer = FunctionScorer(lambda batch: [bad] * len(batch), name=world.name)
    with pytest.raises(ScorerError, match="finite"):
        _collect(world, pairs, tmp_path, scorer=scorer)
    assert not list(tmp_path.glob("shard-*"))


def test_no_pairs_no_calls(world: Any, pairs: Pairs, tmp_path: Path) -> None:
    assert _collect(world, pairs.capped(0), tmp_path).shape == (0,)
    assert not world.calls


_KILLED = """
import json, sys, time
from pathlib import Path
import numpy as np
from crossknn import FunctionScorer
from crossknn import pace
from crossknn.scores import Pairs, collect_scores

pace._SECONDS = 0
folder, log = Path(sys.argv[1]), Path(sys.argv[2])

def slow(batch):
    time.sleep(float(sys.argv[3]))
    with log.open("a") as file:
        file.writelines(json.dumps(pair) + "\\n" for pair in batch)
    return [float(len(q) * 100 + int(i)) for q, i in batch]

n = np.arange(400)
pairs = Pairs(n // 20, n % 20)
queries, items = ["q" * (1 + q) for q in range(20)], [str(i) for i in range(20)]
scorer = FunctionScorer(slow, name="slow", batch_size=5)
scores = collect_scores(pairs, queries, items, scorer, folder, shard_size=20)
print(json.dumps(scores.tolist()))
"""


def test_kill_9_loses_at_most_one_shard(tmp_path: Path) -> None:
    folder, log = tmp_path / "ledger", tmp_path / "calls"
    command = [sys.executable, "-c", _KILLED, str(folder), str(log)]
    process = subprocess.Popen([*command, "0.05"], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while len(list(folder.glob("shard-*.bin"))) < 3:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    finished = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("shard-*.bin")}
    before = len(log.read_text().splitlines())
    assert 60 <= 20 * len(finished) <= before < 20 * (len(finished) + 1) + 5

    resumed = subprocess.run([*command, "0"], stdout=subprocess.PIPE, check=True, timeout=60)
    expected = [float(100 * (1 + n // 20) + n % 20) for n in range(400)]
    assert json.loads(resumed.stdout) == expected
    assert len(log.read_text().splitlines()) - before == 400 - 20 * len(finished)
    for name, known in finished.items():
        assert ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) == known


@settings(max_examples=40)
@given(
    cells=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6)), max_size=40),
    shard_size=st.integers(1, 12),
    failures=st.lists(st.integers(0, 12), max_size=4),
)
def test_however_often_it_fails_the_scores_are_right_and_a_finished_shard_is_paid_for_once(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, int]], shard_size: int, failures: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("ledger")
    pairs = Pairs(*np.array(cells, dtype=np.int64).reshape(-1, 2).T)
    queries, items, asked = [f"q{n}" for n in range(5)], [str(n) for n in range(7)], []
    patience = [0]

    def score(batch: Any) -> list[float]:
        asked.extend(batch)
        patience[0] -= len(batch)
        if patience[0] < 0:
            raise RuntimeError("out of memory")
        return [10.0 * int(q[1:]) + int(i) for q, i in batch]

    scorer = FunctionScorer(score, name="fails", batch_size=shard_size)
    lost = 0
    for patience[0] in failures:
        try:
            collect_scores(pairs, queries, items, scorer, folder, shard_size=shard_size)
        except ScorerError:
            lost += 1
    patience[0] = 1000
    scores = collect_scores(pairs, queries, items, scorer, folder, shard_size=shard_size)
    np.testing.assert_array_equal(scores, [10.0 * q + i for q, i in cells])
    assert len(asked) <= len(cells) + lost * shard_size
