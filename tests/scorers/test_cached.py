"""The score cache: the same scores, each paid for once, whatever else goes on."""

from __future__ import annotations

import multiprocessing
import sqlite3
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from crossknn import CachedScorer, CrossKNNWarning, FunctionScorer
from crossknn.errors import InputError, ScorerError
from crossknn.scorers import cache_entries, clear_cache

QUERIES = ["cat", "water brain", "dog"]
ITEMS = ["bird", "fish", "skin", "bird", ""]


def score_of(query: str, item: str) -> float:
    return len(query) / (3 + len(item)) + (query < item)


class Counted:
    """A scorer that remembers what it was asked."""

    def __init__(self, name: str = "lengths", score: Callable[[str, str], float] = score_of) -> None:
        self.asked: list[tuple[str, str]] = []

        def answer(pairs: list[tuple[str, str]]) -> list[float]:
            self.asked += pairs
            return [score(q, i) for q, i in pairs]

        self.scorer = FunctionScorer(answer, name=name)


def all_pairs() -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.indices((len(QUERIES), len(ITEMS)))
    return rows.ravel(), columns.ravel()


EXPECTED = [score_of(q, i) for q in QUERIES for i in ITEMS]


def test_a_pair_is_asked_for_once_even_by_a_later_run_and_in_another_order(tmp_path: Path) -> None:
    first = Counted()
    cached = CachedScorer(first.scorer, tmp_path / "scores.sqlite")
    rows, columns = all_pairs()
    np.testing.assert_array_equal(cached.prepare(ITEMS).score(QUERIES, rows, columns), EXPECTED)
    assert len(first.asked) == len(set(first.asked)) == 12  # "bird" stands twice
    assert (cached.hits, cached.misses) == (0, 12)  # the file knew none

    later = Counted()
    again = CachedScorer(later.scorer, tmp_path / "scores.sqlite")
    bound = again.prepare([*ITEMS[::-1], "bone"])
    np.testing.assert_array_equal(bound.score(QUERIES[::-1], rows[::-1], columns[::-1]), EXPECTED[::-1][::-1])
    assert not later.asked
    assert bound.score(["cat"], np.array([0]), np.array([5])) == score_of("cat", "bone")
    assert later.asked == [("cat", "bone")]


def test_scorers_never_mix(tmp_path: Path) -> None:
    rows, columns = all_pairs()
    path = tmp_path / "scores.sqlite"
    CachedScorer(Counted().scorer, path).prepare(ITEMS).score(QUERIES, rows, columns)
    other = Counted("other", lambda q, i: -score_of(q, i))
    found = CachedScorer(other.scorer, path).prepare(ITEMS).score(QUERIES, rows, columns)
    np.testing.assert_array_equal(found, np.negative(EXPECTED))
    sizes = {entry.fingerprint.model: entry.n_scores for entry in cache_entries(path)}
    assert sizes == {"function:lengths": 12, "function:other": 12}
    assert clear_cache(path, "function:other") == 12
    assert [entry.n_scores for entry in cache_entries(path)] == [12, 0]
    assert clear_cache(path) == 12


def test_what_is_no_score_is_not_kept(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    broken = Counted(score=lambda q, i: float("nan") if i == "fish" else 1.0)
    with pytest.raises(ScorerError, match="nan"):
        CachedScorer(broken.scorer, path).prepare(ITEMS).score(QUERIES, *all_pairs())
    assert [entry.n_scores for entry in cache_entries(path)] == [0]


def _fill(path: Path, share: int) -> None:
    cached = CachedScorer(Counted().scorer, path)
    bound = cached.prepare([f"item {n}" for n in range(100)])
    for query in range(share, share + 20):  # neighbours overlap
        bound.score([f"query {query}"], np.zeros(100, dtype=int), np.arange(100))


def test_a_file_that_another_model_has_made_anew_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    mine = CachedScorer(Counted().scorer, path)
    bound = mine.prepare(ITEMS)
    for file in tmp_path.iterdir():
        file.unlink()
    other = Counted("other", lambda q, i: -99.0)
    CachedScorer(other.scorer, path).prepare(ITEMS).score(QUERIES, *all_pairs())
    np.testing.assert_array_equal(bound.score(QUERIES, *all_pairs()), EXPECTED)
    assert {entry.fingerprint.model: entry.n_scores for entry in cache_entries(path)} == {
        "function:lengths": 12,
        "function:other": 12,
    }


def test_a_negative_zero_is_kept_as_well_as_any_score(tmp_path: Path) -> None:
    counted = Counted(score=lambda q, i: -0.0)
    bound = CachedScorer(counted.scorer, tmp_path / "scores.sqlite").prepare(ITEMS)
    for _ in range(2):
        np.testing.assert_array_equal(bound.score(QUERIES, *all_pairs()), np.zeros(15))
    assert len(counted.asked) == 12


def test_a_score_that_the_disk_has_changed_is_scored_again(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    CachedScorer(Counted().scorer, path).prepare(ITEMS).score(QUERIES, *all_pairs())
    with sqlite3.connect(path) as file:
        changed = file.execute("UPDATE scores SET score = score + 1 WHERE score > 1").rowcount
    file.close()
    counted = Counted()
    bound = CachedScorer(counted.scorer, path).prepare(ITEMS)
    with pytest.warns(CrossKNNWarning, match=f"{changed} scores in .* are not what was written there"):
        found = bound.score(QUERIES, *all_pairs())
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(counted.asked) == changed > 0
    np.testing.assert_array_equal(bound.score(QUERIES, *all_pairs()), EXPECTED)
    assert len(counted.asked) == changed


def test_a_flipped_bit_anywhere_gives_no_wrong_score(tmp_path: Path) -> None:
    path, spoiled = tmp_path / "scores.sqlite", tmp_path / "spoiled.sqlite"
    items = [f"item {n}" for n in range(200)]
    pairs = np.zeros(200, dtype=int), np.arange(200)
    expected = CachedScorer(Counted().scorer, path).prepare(items).score(["cat"], *pairs)
    clear = sqlite3.connect(path)
    clear.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    clear.close()
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CrossKNNWarning)
        for position in draw.integers(len(whole), size=150):
            damaged = bytearray(whole)
            damaged[position] ^= 1 << int(draw.integers(8))
            spoiled.write_bytes(damaged)
            try:
                found = CachedScorer(Counted().scorer, spoiled).prepare(items).score(["cat"], *pairs)
            except InputError:
                continue
            finally:
                for beside in tmp_path.glob("spoiled.sqlite-*"):
                    beside.unlink()
            np.testing.assert_array_equal(found, expected)


def test_processes_and_threads_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_fill, args=(path, 10 * n)) for n in range(3)]
    workers += [threading.Thread(target=_fill, args=(path, 10 * n)) for n in range(3, 6)]  # type: ignore[list-item]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers[:3]] == [0, 0, 0]
    assert [entry.n_scores for entry in cache_entries(path)] == [70 * 100]
    counted = Counted()
    bound = CachedScorer(counted.scorer, path).prepare([f"item {n}" for n in range(100)])
    found = bound.score(["query 69"], np.zeros(100, dtype=int), np.arange(100))
    np.testing.assert_array_equal(found, [score_of("query 69", f"item {n}") for n in range(100)])
    assert not counted.asked


def test_a_cache_that_fails_later_costs_a_warning_and_no_score(tmp_path: Path) -> None:
    path = tmp_path / "scores.sqlite"
    cached = CachedScorer(Counted().scorer, path)
    bound = cached.prepare(ITEMS)
    path.unlink()
    with pytest.warns(CrossKNNWarning, match=r"scores.sqlite could not be (read|written)"):
        found = bound.score(QUERIES, *all_pairs())
    np.testing.assert_array_equal(found, EXPECTED)


def _foreign(path: Path) -> None:
    with sqlite3.connect(path) as file:
        file.execute("CREATE TABLE theirs (a)")
    file.close()


def _newer(path: Path, version: int = 99) -> None:
    CachedScorer(Counted().scorer, path)
    file = sqlite3.connect(path)
    file.execute(f"PRAGMA user_version = {version}")
    file.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("not a database, but long enough to be read as one" * 9), "cannot be used"),
        (_foreign, "no score cache of crossknn"),
        (_newer, "format 99.*upgrade"),
        (lambda path: _newer(path, 1), "format 1, .*delete it"),
        (lambda path: path.mkdir(), "cannot"),
    ],
    ids=["text", "foreign", "newer", "older", "folder"],
)
def test_a_file_that_is_something_else_is_refused_and_left_alone(
    tmp_path: Path, make: Callable[[Path], object], message: str
) -> None:
    path = tmp_path / "scores.sqlite"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    for use in (lambda: CachedScorer(Counted().scorer, path), lambda: cache_entries(path), lambda: clear_cache(path)):
        with pytest.raises(InputError, match=message):
            use()
    assert (path.read_bytes() if path.is_file() else None) == before


def test_nothing_is_made_where_only_a_look_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no score cache"):
        cache_entries(tmp_path / "none.sqlite")
    with pytest.raises(InputError, match="folder must exist"):
        CachedScorer(Counted().scorer, tmp_path / "no" / "folder.sqlite")
    assert list(tmp_path.iterdir()) == []
