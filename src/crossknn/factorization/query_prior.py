"""What a query's weights are expected to be before its first score, and how much they vary, learned from other queries'
scores: see :mod:`crossknn.factorization.side_information`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.scores.matrix import ScoreMatrix

RIDGES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1000.0)
"""Of the map from a query's vector to its weights; a unit vector's square is 1."""

_STEPS = 25
"""Of the variances' update; the likelihood is within 0.1 of its maximum then."""


@dataclass(frozen=True)
class Factors:
    """The mean's ``alpha`` and ``beta``, item biases (n_items,), and factors (n_items, d)."""

    alpha: float
    beta: float
    biases: FloatArray
    factors: FloatArray


@dataclass(frozen=True)
class Observed:
    """The scores, and the vectors of items and queries."""

    scores: ScoreMatrix
    x: FloatArray
    x_q: FloatArray

    def design(self, cells: IntArray) -> FloatArray:
        """(n_cells, 2) inner products of query and item, and ones: what the mean is made of beside item biases."""
        q, i = self.scores.query_indices[cells], self.scores.item_indices[cells]
        return np.column_stack([np.einsum("nd,nd->n", self.x_q[q], self.x[i]), np.ones(len(cells))])

    def problem(self, query: int, cells: IntArray, known: Factors) -> tuple[list[FloatArray], FloatArray]:
        """Factors, vectors and constant of a query's scored items, and what the mean leaves of its scores."""
        i = self.scores.item_indices[cells]
        mean = known.alpha * (self.x[i].astype(np.float64) @ self.x_q[query]) + known.beta + known.biases[i]
        parts = [known.factors[i], self.x[i].astype(np.float64), np.ones((len(i), 1))]
        return parts, self.scores.values[cells] - mean


@dataclass(frozen=True)
class Expected:
    """What a query's weights are expected to be: ``mean + (x_q - centre) matrix``, (d + width + 1,)."""

    centre: FloatArray
    mean: FloatArray
    matrix: FloatArray

    @classmethod
    def nothing(cls, known: Factors, x: FloatArray) -> Expected:
        """0 for every query."""
        d = known.factors.shape[1] + x.shape[1] + 1
        return cls(np.zeros(x.shape[1]), np.zeros(d), np.zeros((x.shape[1], d)))

    def weights(self, x_q: FloatArray) -> FloatArray:
        """(..., d + width + 1) of (..., width)."""
        weights: FloatArray = self.mean + (x_q - self.centre) @ self.matrix
        return weights


def variances_of(
    observed: Observed, rows: list[tuple[int, IntArray]], known: Factors, expected: Expected
) -> FloatArray:
    """(4,) variances of the weights of factors, vectors and constant, and of the noise: those of highest likelihood.

    ``v <- v sqrt(r' K^-1 K_v K^-1 r / tr(K^-1 K_v))`` never lowers it, and needs fewer steps than EM (Zhou et al., *MM
    Algorithms for Variance Components Models*, JCGS 2019).
    """
    problems = []
    for query, cells in rows:
        parts, left = observed.problem(query, cells, known)
        left = left - np.column_stack(parts) @ expected.weights(observed.x_q[query])
        parts, left, rest = _rotated(parts, left)
        problems.append(([part @ part.T for part in parts], left, rest))
    rounded_off = (1e-6 * (float(np.abs(observed.scores.values).max()) or 1.0)) ** 2
    total = max(float(np.mean([np.mean(np.append(r, rest) ** 2) for _, r, rest in problems])), rounded_off)
    variances = np.array([1.0, total, total, 0.3 * total])
    least = 1e-6 * np.array([1.0, total, total, total])  # the first has no unit, the others that of scores squared
    for _ in range(_STEPS):
        found, wanted = np.zeros(4), np.zeros(4)
        for kernels, r, rest in problems:
            kernel = sum(v * k for v, k in zip(variances[:3], kernels, strict=True)) + variances[3] * np.eye(len(r))
            inverse = np.linalg.inv(kernel)
            weights, of_rest = inverse @ r, rest / variances[3]
            found += [*(weights @ k @ weights for k in kernels), weights @ weights + of_rest @ of_rest]
            wanted += [*(np.sum(inverse * k) for k in kernels), np.trace(inverse) + len(rest) / variances[3]]
        variances = np.maximum(variances * np.sqrt(found / np.maximum(wanted, 1e-300)), least)
    return variances


def weights_of(
    observed: Observed, rows: list[tuple[int, IntArray]], known: Factors, variances: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(n_rows, d + width + 1) weights of some queries, as their scores tell them, and (n_rows, width) vectors."""
    weights = []
    for query, cells in rows:
        parts, left, _ = _rotated(*observed.problem(query, cells, known))
        kernel = sum(v * part @ part.T for v, part in zip(variances[:3], parts, strict=True))
        solved = np.linalg.solve(kernel + variances[3] * np.eye(len(left)), left)
        weights.append(np.concatenate([v * (part.T @ solved) for v, part in zip(variances[:3], parts, strict=True)]))
    return np.array(weights), observed.x_q[[query for query, _ in rows]]


def expected_of(weights: FloatArray, x_q: FloatArray, ridge: float) -> Expected:
    """Ridge regression of queries' weights on their vectors."""
    centre, mean = x_q.mean(axis=0), weights.mean(axis=0)
    x_q = x_q - centre
    matrix = np.linalg.solve(x_q.T @ x_q + ridge * np.eye(len(centre)), x_q.T @ (weights - mean))
    return Expected(centre, mean, matrix)


def best_ridge(
    observed: Observed,
    held_out: list[tuple[int, IntArray]],
    known: Factors,
    fitted_to: tuple[FloatArray, FloatArray],
) -> float:
    """The one that leaves the least of the scores of queries that it was not fitted to.

    ``fitted_to`` are the others' weights and vectors, as of :func:`weights_of`.
    """
    problems = [(observed.x_q[query], *observed.problem(query, cells, known)) for query, cells in held_out]

    def error(ridge: float) -> float:
        expected = expected_of(*fitted_to, ridge)
        return sum(float(np.mean((r - np.column_stack(parts) @ expected.weights(q)) ** 2)) for q, parts, r in problems)

    return min(RIDGES, key=error)


def _rotated(parts: list[FloatArray], left: FloatArray) -> tuple[list[FloatArray], FloatArray, FloatArray]:
    """Parts and left of :meth:`Observed.problem` with no more rows than columns, and the (n_rest,) that is left only
    of noise: rotating independent noise of one variance makes independent noise of the same variance."""
    widths = [part.shape[1] for part in parts]
    if len(left) <= sum(widths):
        return parts, left, left[:0]
    q, r = np.linalg.qr(np.column_stack(parts))
    turned = q.T @ left
    n_rest = len(left) - len(turned)
    rest = np.full(n_rest, np.linalg.norm(left - q @ turned) / np.sqrt(n_rest))  # their squares' sum is all that counts
    return np.split(r, np.cumsum(widths)[:-1], axis=1), turned, rest
