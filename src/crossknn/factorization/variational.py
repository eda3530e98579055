"""Matrix factorization that knows what it is unsure of: ``r_qi = u_q . v_i + b_q + c_i + noise``.

An item has a handful of scores, and a factorization with one best vector for it fits them all, noise included. Here
each row of either side is a normal distribution, the other side sees its covariance, and how far items may move from
their start, biases from 0, and scores from the product are the variances under which the scores are most likely:
variational Bayes (Lim and Teh, *Variational Bayesian Approach to Movie Rating Prediction*, KDD Cup 2007).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.scores.matrix import groups

_NUMBERS_AT_ONCE = 1_000_000
_LEAST = 1e-9
"""Share of the scores' variance below which no variance falls: it would never rise again."""


def _posterior(
    variances: FloatArray, expected: FloatArray, moments: FloatArray, told: FloatArray, noise: float
) -> tuple[FloatArray, FloatArray]:
    """(n, d + 1) means and (n, d + 1, d + 1) covariances of rows that were expected (n, d + 1) with (d + 1,) variances,
    whose cells have these sums of the other side's ``moments`` (n, d + 1, d + 1), and that are ``told`` (n, d + 1)."""
    precisions = 1 / variances
    covariances = np.linalg.inv(moments / noise + np.diag(precisions))
    means = covariances @ (precisions * expected + told / noise)[..., None]
    return means[..., 0], covariances


def _squares(means: FloatArray, covariances: FloatArray, expected: FloatArray) -> FloatArray:
    """(d + 1,) sums of rows' squared distances from what was expected, the bias last."""
    squares: FloatArray = ((means - expected) ** 2 + np.diagonal(covariances, axis1=1, axis2=2)).sum(axis=0)
    return squares


@dataclass(frozen=True)
class _Seen:
    """What rows ``[w | e]`` are to the other side, which multiplies with ``[w | 1]`` and adds ``e``."""

    factors: FloatArray
    """(n, d + 1) means of ``[w | 1]``."""
    moments: FloatArray
    """(n, d + 1, d + 1) of ``[w | 1]``."""
    beside: FloatArray
    """(n, d + 1) mean of ``e [w | 1]``."""
    bias: FloatArray
    """(n, 2) means of ``e`` and its square."""

    @classmethod
    def of(cls, means: FloatArray, covariances: FloatArray) -> _Seen:
        factors, bias = means.copy(), means[:, -1]
        factors[:, -1] = 1
        own = covariances.copy()
        own[:, -1] = own[:, :, -1] = 0
        beside = bias[:, None] * factors
        beside[:, :-1] += covariances[:, :-1, -1]
        squares = bias**2 + covariances[:, -1, -1]
        return cls(factors, factors[:, :, None] * factors[:, None] + own, beside, np.column_stack([bias, squares]))


@dataclass
class _Sums:
    """Over the cells of each of n rows."""

    moments: FloatArray
    told: FloatArray

    @classmethod
    def none(cls, n: int, width: int) -> _Sums:
        return cls(np.zeros((n, width, width)), np.zeros((n, width)))

    def add(self, rows: IntArray, seen: _Seen, columns: IntArray, targets: FloatArray) -> None:
        """Cells in any order, no pair twice. Row by row: ``reduceat`` takes six times as long."""
        for row, cells in groups(rows):
            others = columns[cells]
            self.moments[row] += seen.moments[others].sum(axis=0)
            self.told[row] += targets[cells] @ seen.factors[others] - seen.beside[others].sum(axis=0)


def factorize(
    queries: IntArray, items: IntArray, residuals: FloatArray, n_queries: int, start: FloatArray, sweeps: int
) -> tuple[FloatArray, FloatArray]:
    """Means of ``[u | b]`` and ``[v | c]``.

    Args:
        queries: (n_cells,) row of each cell; every query has one.
        items: (n_cells,) column of each cell.
        residuals: (n_cells,) ``r``.
        n_queries: number of rows.
        start: (n_items, d) what ``v`` is expected to be, such that ``u`` varies by about 1 in any direction.
        sweeps: how often all items, and all queries, are gone through; 0 leaves the items as they start.

    Returns:
        (n_queries, d + 1) and (n_items, d + 1), the biases last. Items without a cell are at their start.

    Cost: a sweep takes ``O(n_cells d^2 + n_items d^3)``, some 15 seconds for 500,000 cells of 50,000 items and 48
    dimensions on one core. Memory: some ``100 n_queries d^2`` bytes.
    """
    width = start.shape[1] + 1
    expected = np.column_stack([start, np.zeros(len(start))])
    variance = float(np.var(residuals)) or 1.0
    noise = variance / 4
    of_queries = np.append(np.ones(width - 1), variance / 3)
    of_items = np.full(width, variance / 50)
    centre, n_scored = np.zeros(width), len(np.unique(items))
    means = expected.copy()
    asked: _Seen | None = None
    for sweep in range(sweeps + 1):
        sums, moved, spent = _Sums.none(n_queries, width), np.zeros(width), 0.0
        for block, rows, cells in _blocks(items, width):
            if asked is None:
                covariances = np.zeros((len(block), width, width))
            else:
                own = _Sums.none(len(block), width)
                own.add(rows, asked, queries[cells], residuals[cells])
                means[block], covariances = _posterior(of_items, expected[block], own.moments, own.told, noise)
            moved += _squares(means[block], covariances, expected[block])
            seen = _Seen.of(means[block], covariances)
            sums.add(queries[cells], seen, rows, residuals[cells])
            bias, square = seen.bias[rows].T
            spent += float(np.sum(residuals[cells] ** 2 - 2 * residuals[cells] * bias + square))
        found, uncertain = _posterior(of_queries, centre, sums.moments, sums.told, noise)
        if sweep == sweeps:
            break
        second = found[:, :, None] * found[:, None] + uncertain
        left = spent - 2 * np.sum(found * sums.told) + np.sum(second * sums.moments)
        noise = max(left / len(residuals), _LEAST * variance)
        centre = found.mean(axis=0)
        squares = _squares(found, uncertain, centre) / n_queries
        of_queries = _shared(squares, np.append(np.full(width - 1, _LEAST), _LEAST * variance))
        if asked is not None:
            of_items = _shared(moved / n_scored, np.full(width, _LEAST * variance))
        asked = _Seen.of(found, uncertain)
    return found, means


def _shared(variances: FloatArray, least: FloatArray) -> FloatArray:
    """One for all factors, and the bias's own."""
    both: FloatArray = np.append(np.full(len(variances) - 1, variances[:-1].mean()), variances[-1])
    return np.maximum(both, least)


def _blocks(items: IntArray, width: int) -> Iterator[tuple[IntArray, IntArray, IntArray]]:
    """Some items that have cells, the row among these of each of their cells, and the cells."""
    scored = list(groups(items))
    at_once = max(1, _NUMBERS_AT_ONCE // width**2)
    for first in range(0, len(scored), at_once):
        some = scored[first : first + at_once]
        rows = np.repeat(np.arange(len(some)), [len(cells) for _, cells in some])
        yield np.array([item for item, _ in some]), rows, np.concatenate([cells for _, cells in some])
