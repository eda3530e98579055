"""A moving query finds what a pass over all items would find, and looks at few of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossknn.vectors import MovingQuery, best_of_each, inner_products, top_k


def followed(items: Any, walk: Any, beside: Any, k: int, allowed: Any) -> tuple[list[Any], list[MovingQuery]]:
    """What each step of some queries' walks finds; (n_steps, n_queries, d)."""
    lengths = np.linalg.norm(items, axis=1)
    rows = np.broadcast_to(beside, allowed.shape)
    queries = [MovingQuery(items, lengths, row) for row in rows]
    return [best_of_each(queries, vectors, k, allowed) for vectors in walk], queries


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(1, 400),
    d=st.integers(1, 12),
    k=st.integers(1, 30),
    length=st.sampled_from([1e-6, 1e-3, 1.0]),
    step=st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 1.0, 30.0]),
    jump=st.sampled_from([1.0, 1e3, 1e-3]),
    offset=st.sampled_from([0.0, 1.0, 100.0]),
    share=st.floats(0.05, 1),
)
def test_the_best_are_those_of_all_inner_products(
    seed: int, n_items: int, d: int, k: int, length: float, step: float, jump: float, offset: float, share: float
) -> None:
    rng = np.random.default_rng(seed)
    items = (rng.standard_normal((n_items, d)) * rng.gamma(1, size=(n_items, 1))).astype(np.float32)
    items[n_items // 2 :] = items[: n_items - n_items // 2]  # ties
    beside = (offset * rng.standard_normal((3, n_items))).astype(np.float32)
    beside[:, n_items // 2 :] = beside[:, : n_items - n_items // 2]
    allowed = rng.random((3, n_items)) < share
    walk = rng.standard_normal((3, d)) + np.cumsum(step * rng.standard_normal((8, 3, d)), axis=0)
    walk *= length
    walk[4:] *= jump
    found, _ = followed(items, walk, beside, k, allowed)
    longest = np.abs(items).sum(axis=1).max() * np.abs(walk).max()
    for vectors, each in zip(walk, found, strict=True):
        exact = inner_products(vectors, items) + beside
        for scores, mask, (indices, told) in zip(exact, allowed, each, strict=True):
            best = top_k(scores, k, mask)
            assert len(set(indices.tolist())) == len(indices) == len(best)
            assert mask[indices].all()
            tolerance = 1e-6 * (np.abs(scores).max() + longest)
            np.testing.assert_allclose(told, scores[indices], atol=tolerance)
            np.testing.assert_allclose(scores[indices], scores[best], atol=tolerance)


@pytest.mark.parametrize("step", [0.0, 0.02])
def test_a_small_step_looks_at_few_items(step: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    items = rng.standard_normal((5000, 32)).astype(np.float32)
    walk = rng.standard_normal((1, 32)) + step * np.cumsum(rng.standard_normal((6, 1, 32)), axis=0)
    looked: list[int] = []
    look = MovingQuery._look
    monkeypatch.setattr(MovingQuery, "_look", lambda self, rows: (looked.append(len(rows)), look(self, rows)))
    passes: list[int] = []
    monkeypatch.setattr(
        "crossknn.vectors.moving.inner_products", lambda v, i: (passes.append(len(v)), inner_products(v, i))[1]
    )
    followed(items, walk, np.zeros(5000, np.float32), 10, np.ones((1, 5000), bool))
    assert passes == [1]
    assert sum(looked) < 0.2 * 5 * 5000


def test_a_query_alone_finds_what_it_finds_among_others_to_the_last_bit() -> None:
    rng = np.random.default_rng(1)
    items = rng.standard_normal((3000, 16)).astype(np.float32)
    walk = rng.standard_normal((4, 16)) + np.cumsum(
        np.array([0.01, 0.1, 1, 3])[None, :, None] * rng.standard_normal((6, 4, 16)), axis=0
    )
    allowed = rng.random((4, 3000)) < 0.9
    together, _ = followed(items, walk, np.zeros(3000, np.float32), 20, allowed)
    for row in range(4):
        alone, _ = followed(items, walk[:, row : row + 1], np.zeros(3000, np.float32), 20, allowed[row : row + 1])
        for all_of_them, (own,) in zip(together, alone, strict=True):
            np.testing.assert_array_equal(all_of_them[row][0], own[0])
            np.testing.assert_array_equal(all_of_them[row][1], own[1])


def test_no_queries_find_nothing() -> None:
    assert best_of_each([], np.empty((0, 3)), 5, np.empty((0, 4), bool)) == []
