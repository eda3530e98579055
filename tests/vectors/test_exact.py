"""Exact vector search: a sort is the oracle, and company never changes a query's numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.vectors import inner_products, top_k


@given(data=st.data(), scores=st.lists(st.integers(-3, 3) | st.floats(-2, 2), max_size=30), k=st.integers(0, 40))
def test_top_k_is_a_stable_sort(data: st.DataObject, scores: list[float], k: int) -> None:
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=len(scores), max_size=len(scores)))
    allowed = range(len(scores)) if mask is None else [n for n, yes in enumerate(mask) if yes]
    expected = sorted(allowed, key=lambda n: (-scores[n], n))[:k]
    for dtype in (np.float64, np.float32):
        array = np.array(scores, dtype=dtype)
        if dtype is np.float32:
            expected = sorted(allowed, key=lambda n: (-array[n], n))[:k]
        chosen = top_k(array, k, None if mask is None else np.array(mask, dtype=bool))
        assert chosen.tolist() == expected


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("n_items", [1, 2, 7, 16, 33, 1000])
@pytest.mark.parametrize("d", [1, 3, 8, 65, 384])
def test_inner_products_are_right_and_the_same_bits_in_any_company(n_items: int, d: int, dtype: str) -> None:
    rng = np.random.default_rng(n_items * 1000 + d)
    queries, items = rng.normal(size=(19, d)), rng.normal(size=(n_items, d)).astype(dtype)
    together = inner_products(queries, items)
    assert together.dtype == items.dtype
    tolerance = 1e-4 if dtype == "f4" else 1e-10
    np.testing.assert_allclose(together, queries @ items.T.astype("f8"), rtol=tolerance, atol=tolerance)
    for chosen in ([4], [18], [3, 0, 11], list(range(1, 19)), [7] * 9):
        np.testing.assert_array_equal(inner_products(queries[chosen], items), together[chosen])


def test_a_query_of_infinite_numbers_does_not_spoil_its_neighbours() -> None:
    items = np.random.default_rng(0).normal(size=(20, 5))
    queries = np.vstack([np.ones(5), np.full(5, np.inf)])
    with np.errstate(invalid="ignore"):
        together = inner_products(queries, items)
    np.testing.assert_array_equal(together[0], inner_products(queries[:1], items)[0])


def test_no_queries_no_rows() -> None:
    assert inner_products(np.empty((0, 3)), np.ones((4, 3))).shape == (0, 4)
