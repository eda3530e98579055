"""Measures of a search, query by query, and intervals for their means."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.recall import share_of_best


def top_k_recall(exact: FloatArray, scored: IntArray, k: int) -> float:
    """Top-k-Recall of one query: the share of the CE's exact top k that is among the items scored.

    Tie-aware: an item that ties with the k-th counts as one of the k, but no more of them than there are places.

    Args:
        exact: (n_items,) CE scores of all items.
        scored: items that the search scored.
        k: 1 to n_items.

    Raises:
        InputError: k is out of range.

    >>> top_k_recall(np.array([0.5, 0.9, 0.1, 0.7]), np.array([1, 2]), k=2)
    0.5
    """
    if not 1 <= k <= len(exact):
        raise InputError(f"k must lie between 1 and the {len(exact)} items, got {k}")
    return share_of_best(exact, exact[np.unique(scored)], k)


def top_item_is_right(scores: FloatArray, indices: IntArray, right: BoolArray) -> float:
    """Task accuracy of one query: 1 if the best-scored item is right, else 0; equal scores by item position.

    Args:
        scores: (n,) CE scores of the items found.
        indices: (n,) their positions.
        right: (n_items,) true for items that are right for the query.
    """
    return float(right[indices[np.lexsort((indices, -scores))[0]]])


@dataclass(frozen=True)
class Interval:
    """A mean with its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


def error_reduction(values: FloatArray, others: FloatArray, *, seed: int = 0) -> Interval | None:
    """By what share the mean error ``1 - values`` is below ``1 - others``, with a 95% percentile bootstrap interval.

    Args:
        values: (n_queries,) recalls.
        others: (n_queries,) paired with ``values``.
        seed: of the 10,000 resamples of queries.

    Returns:
        1 where nothing is left of the error, below 0 where it has grown; None where the others make none.

    >>> error_reduction(np.array([0.9, 0.9]), np.array([0.8, 0.8])).mean.__round__(3)
    0.5
    """
    ours, theirs = 1 - values, 1 - others
    if not theirs.mean() > 0:
        return None
    shares = _resamples(len(values), seed)
    some = shares @ theirs
    ratios = (shares @ ours)[some > 0] / some[some > 0]
    low, high = np.quantile(1 - ratios, [0.025, 0.975])
    return Interval(float(1 - ours.mean() / theirs.mean()), float(low), float(high))


def paired_interval(values: FloatArray, baseline: FloatArray | None = None, *, seed: int = 0) -> Interval:
    """Mean of ``values``, or of ``values - baseline`` on the same queries, with a 95% percentile bootstrap interval.

    Args:
        values: (n_queries,).
        baseline: (n_queries,), paired with ``values``.
        seed: of the 10,000 resamples of queries.
    """
    differences = values if baseline is None else values - baseline
    mean = float(differences.mean())
    low, high = np.quantile(_resamples(len(differences), seed) @ differences, [0.025, 0.975])
    return Interval(mean, min(float(low), mean), max(float(high), mean))  # equal values differ in the last bit


@lru_cache(maxsize=1)
def _resamples(n: int, seed: int) -> FloatArray:
    """(10,000, n) share of each of ``n`` values in each resample; the same ones for every measure of an evaluation."""
    drawn = np.random.default_rng(seed).integers(n, size=(10_000, n))
    shares: FloatArray = np.empty(drawn.shape)
    for row, resample in zip(shares, drawn, strict=True):
        row[:] = np.bincount(resample, minlength=n)
    shares /= n
    return shares
