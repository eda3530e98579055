"""Plans: which pairs are paid for, how many, and that the seed alone decides the random part."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import PerItem, PerQuery
from crossknn.errors import InputError
from crossknn.scores import Pairs

_sizes = {"n_queries": st.integers(1, 8), "n_items": st.integers(1, 12), "top": st.integers(0, 14)}


def _first_scores(n_queries: int, n_items: int) -> np.ndarray:
    """With ties, so that order by position matters."""
    return np.random.default_rng(n_queries * 100 + n_items).integers(0, 4, (n_queries, n_items)).astype("f4")


def _cells(pairs: Pairs) -> list[tuple[int, int]]:
    return [(int(q), int(i)) for q, i in zip(pairs.query_indices, pairs.item_indices, strict=True)]


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
@given(uniform=st.integers(0, 14), seed=st.integers(0, 9), **_sizes)
def test_a_plan_takes_the_best_and_some_others_once_and_says_how_many(
    kind: Any, n_queries: int, n_items: int, top: int, uniform: int, seed: int
) -> None:
    plan = kind(top, uniform if top + uniform else 1)
    scores = _first_scores(n_queries, n_items)
    cells = _cells(plan.pairs(scores, np.random.default_rng(seed)))
    assert cells == sorted(set(cells))
    assert len(cells) == plan.n_calls(n_queries, n_items)
    assert _cells(plan.pairs(scores, np.random.default_rng(seed))) == cells
    table = scores if kind is PerQuery else scores.T
    for row, liking in enumerate(table):
        chosen = {(i if kind is PerQuery else q) for q, i in cells if row == (q if kind is PerQuery else i)}
        best = sorted(range(len(liking)), key=lambda n: (-liking[n], n))[: plan.top]
        assert chosen >= set(best)
        assert len(chosen) == min(plan.top + plan.uniform, len(liking))


@pytest.mark.parametrize("kind", [PerQuery, PerItem])
def test_the_random_part_is_drawn_evenly_from_the_others(kind: Any) -> None:
    plan, scores = kind(1, 2), np.array([[5.0, 1, 1, 1, 1]] * 5) + np.diag([5.0] * 5)
    counts = np.zeros((5, 5))
    for seed in range(150):
        pairs = plan.pairs(scores, np.random.default_rng(seed))
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
    assert len(PerQuery().pairs(np.empty((0, 5)), np.random.default_rng(0))) == 0


@pytest.mark.parametrize(("cap", "kept"), [(1, 1), (4, 4), (99, 6)])
def test_a_cap_gives_up_the_last_queries(cap: int, kept: int) -> None:
    pairs = PerQuery(3, 0).pairs(_first_scores(2, 5), np.random.default_rng(0))
    assert _cells(pairs.capped(cap)) == _cells(pairs)[:kept]
