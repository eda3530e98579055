"""Plans: which pairs are paid for, how many, and that the seed alone decides the random part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import AllItems, PerItem, PerQuery
from crossknn.errors import InputError
from crossknn.scores import Pairs

_sizes = {"n_queries": st.integers(1, 8), "n_items": st.integers(1, 12), "top": st.integers(0, 14)}


def _first_scores(n_queries: int, n_items: int) -> np.ndarray:
    """With ties, so that order by position matters."""
    return np.random.default_rng(n_queries * 100 + n_items).integers(0, 4, (n_queries, n_items)).astype("f4")


def _pairs(plan: Any, scores: np.ndarray, seed: int = 0, rows: int = 3) -> Pairs:
    blocks = (scores[start : start + rows] for start in range(0, len(scores), rows))
    return plan.pairs(blocks, scores.shape, np.random.default_rng(seed))


def _cells(pairs: Pairs) -> list[tuple[int, int]]:
    return [(int(q), int(i)) for q, i in zip(pairs.query_indices, pairs.item_indices, strict=True)]


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
@given(uniform=st.integers(0, 14), seed=st.integers(0, 9), **_sizes)
def test_a_plan_takes_the_best_and_some_others_once_and_says_how_many(
    kind: Any, n_queries: int, n_items: int, top: int, uniform: int, seed: int
) -> None:
    plan = kind(top, uniform if top + uniform else 1)
    scores = _first_scores(n_queries, n_items)
    cells = _cells(_pairs(plan, scores, seed))
    assert cells == sorted(set(cells))
    assert len(cells) == plan.n_calls(n_queries, n_items)
    table = scores if kind is PerQuery else scores.T
    for row, liking in enumerate(table):
        chosen = {(i if kind is PerQuery else q) for q, i in cells if row == (q if kind is PerQuery else i)}
        best = sorted(range(len(liking)), key=lambda n: (-liking[n], n))[: plan.top]
        assert chosen >= set(best)
        assert len(chosen) == min(plan.top + plan.uniform, len(liking))


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
@given(uniform=st.integers(0, 5), seed=st.integers(0, 9), rows=st.integers(1, 9), **_sizes)
def test_blocks_of_queries_choose_as_the_whole_matrix(
    kind: Any, n_queries: int, n_items: int, top: int, uniform: int, seed: int, rows: int
) -> None:
    plan = kind(top, uniform if top + uniform else 1)
    scores = _first_scores(n_queries, n_items)
    rng, table, expected = np.random.default_rng(seed), scores if kind is PerQuery else scores.T, set()
    for row, liking in enumerate(table):
        best = sorted(range(len(liking)), key=lambda n: (-liking[n], n))[: plan.top]
        others = [n for n in range(len(liking)) if n not in best]
        drawn = rng.choice(np.array(others, dtype=int), min(plan.uniform, len(others)), replace=False)
        expected |= {(row, int(n)) if kind is PerQuery else (int(n), row) for n in [*best, *drawn]}
    assert _cells(_pairs(plan, scores, seed, rows)) == sorted(expected)


@pytest.mark.parametrize("plan", [PerQuery(0, 2), PerItem(0, 2), AllItems()])
def test_a_plan_that_needs_no_first_stage_computes_none(plan: Any) -> None:
    def blocks() -> Any:
        pytest.fail("a block was computed")
        yield

    assert len(plan.pairs(blocks(), (3, 5), np.random.default_rng(0))) == plan.n_calls(3, 5)


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
def test_the_random_part_is_drawn_evenly_from_the_others(kind: Any) -> None:
    plan, scores = kind(1, 2), np.array([[5.0, 1, 1, 1, 1]] * 5) + np.diag([5.0] * 5)
    counts = np.zeros((5, 5))
    for seed in range(150):
        pairs = _pairs(plan, scores, seed)
        counts[pairs.query_indices, pairs.item_indices] += 1
    best = counts == 150
    assert best.sum(axis=1 if kind is PerQuery else 0).tolist() == [1] * 5
    assert (np.abs(counts[~best] - 75) < 30).all()


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
@pytest.mark.parametrize(("top", "uniform"), [(0, 0), (-1, 5), (5, -1)])
def test_a_plan_that_scores_nothing_is_refused(kind: Any, top: int, uniform: int) -> None:
    with pytest.raises(InputError, match=f"top={top} and uniform={uniform}"):
        kind(top, uniform)


def test_no_queries_no_pairs() -> None:
    assert len(_pairs(PerQuery(), np.empty((0, 5)))) == 0


@pytest.mark.parametrize(("cap", "kept"), [(1, 1), (4, 4), (99, 6)])
def test_a_cap_gives_up_the_last_queries(cap: int, kept: int) -> None:
    pairs = _pairs(PerQuery(3, 0), _first_scores(2, 5))
    assert _cells(pairs.capped(cap)) == _cells(pairs)[:kept]
