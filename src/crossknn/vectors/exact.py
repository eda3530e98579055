"""Item vectors searched exactly: all inner products, then the best."""

from __future__ import annotations

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray

_ROWS = 2048
"""Item vectors multiplied at a time, by one query after the other: they stay in the cache for all, and a query's
products are computed in the same way, to the last bit, whether it comes alone or among others."""

_FEW = 50


def inner_products(query_vectors: FloatArray, item_vectors: FloatArray) -> FloatArray:
    """Inner products of some queries with all items.

    Args:
        query_vectors: (n_queries, d).
        item_vectors: (n_items, d), may be memory-mapped.

    Returns:
        (n_queries, n_items) in the type of ``item_vectors``.
    """
    queries = np.ascontiguousarray(query_vectors, dtype=item_vectors.dtype)
    products = np.empty((len(queries), len(item_vectors)), dtype=item_vectors.dtype)
    with np.errstate(invalid="ignore"):  # raised now and then by BLAS on finite vectors, whose products are right
        for start in range(0, len(item_vectors), _ROWS):
            rows = slice(start, start + _ROWS)
            for query, row in zip(queries, products, strict=True):
                np.dot(item_vectors[rows], query, out=row[rows])
    return products


def top_k(scores: FloatArray, k: int, allowed: BoolArray | None = None) -> IntArray:
    """Positions of the k highest scores, best first; equal scores by position.

    Args:
        scores: (n,) finite scores.
        k: how many; fewer come back if fewer are allowed.
        allowed: (n,) mask; None allows all.

    >>> top_k(np.array([1.0, 3.0, 3.0, 2.0]), 3).tolist()
    [1, 2, 3]
    """
    candidates = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    values = scores[candidates]
    if k < len(candidates):
        edge = np.partition(values, len(values) - k)[len(values) - k] if k > 0 else np.inf
        above = np.flatnonzero(values > edge)
        at_edge = np.flatnonzero(values == edge)[: max(0, k - len(above))]
        kept = np.sort(np.concatenate([above, at_edge]))
        candidates, values = candidates[kept], values[kept]
    return candidates[np.argsort(-values, kind="stable")]


def ranks_of(scores: FloatArray, items: IntArray, allowed: BoolArray | None = None) -> IntArray:
    """Ranks of some items among those allowed, from 1, highest score first; equal scores by position.

    Args:
        scores: (n,) finite scores.
        items: positions of allowed items.
        allowed: (n,) mask; None allows all.

    Returns:
        (len(items),).
    """
    candidates = np.arange(len(scores)) if allowed is None else np.flatnonzero(allowed)
    values = scores[candidates]
    if len(items) <= _FEW:  # quicker than sorting all
        found = [np.sum(values > scores[i]) + np.sum((values == scores[i]) & (candidates < i)) for i in items]
        return 1 + np.array(found, dtype=np.int64)
    ranks = np.empty(len(scores), dtype=np.int64)
    ranks[candidates[np.argsort(-values, kind="stable")]] = np.arange(1, len(candidates) + 1)
    return ranks[items]
