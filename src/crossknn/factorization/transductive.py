"""Transductive matrix factorization in closed form: alternating ridge solves on the observed cells (paper, eq. 3).

The paper minimises the same loss by AdamW from the dual encoder's vectors. Here the pull toward those vectors is part
of the loss, so an item with few scores stays near its start instead of following them anywhere::

    sum over observed (q, i) of (s'_qi - mu - b_q - c_i - u_q . v_i)^2
        + ridge (sum_q |u_q - u0_q|^2 + sum_i |v_i - v0_i|^2) + bias_ridge (sum_q b_q^2 + sum_i c_i^2)

with ``s'`` the normalised scores (appendix A.4) and ``u0``, ``v0`` the first stage's vectors. For fixed items every
query is a small linear system, and the other way round; each sweep solves all of them and lowers the loss.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.base import check_shapes
from crossknn.factorization.item_model import ItemModel, Normalisation
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs

_NUMBERS_AT_ONCE = 4_000_000
"""Rows with as many cells are solved together, up to so many numbers."""


@dataclass(frozen=True)
class MFTransductive:
    """MF_Trns: alternating ridge solves on the observed cells, from the first stage's vectors.

    Attributes:
        ridge: how strongly vectors are held to their start.
        bias_ridge: how strongly query and item biases are held to 0.
        sweeps: rounds of solving all queries and all items.
        dimensions: width of the vectors where the first stage has none; it decides otherwise.
        seed: of the random start where the first stage has no vectors.
    """

    ridge: float = 1.0
    bias_ridge: float = 0.3
    sweeps: int = 8
    dimensions: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        if not (self.ridge > 0 and self.bias_ridge > 0):
            raise InputError(f"ridge and bias_ridge must be above 0, got {self.ridge} and {self.bias_ridge}")
        if self.sweeps < 0 or self.dimensions < 1:
            raise InputError(f"sweeps must be 0 or more and dimensions 1 or more, got {self.sweeps}, {self.dimensions}")

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`: any pair will do.

        Raises:
            InputError: there is none.
        """
        if not len(pairs):
            raise InputError("there is no score to factorize; give train queries and a plan that scores some pairs")

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`. Items without a score keep their start and a bias of 0.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d) ``v0``; None starts from small random ones.
            query_vectors: (n_queries, d) ``u0``; given with ``item_vectors`` or not at all.
            first_stage_scores: not used.

        Raises:
            InputError: no score at all, or shapes that do not fit.

        Cost: no CE call. A sweep takes ``O(n_observed d min(d, cells per row))``.
        """
        self.check(scores.pairs, scores.shape[1], has_vectors=item_vectors is not None)
        n_queries, n_items = scores.shape
        follows = item_vectors is not None
        item_vectors, query_vectors = self._begun_with(item_vectors, query_vectors, scores.shape)
        check_shapes(scores, item_vectors, query_vectors)
        used, columns = np.unique(scores.item_indices, return_inverse=True)  # the others stay where they are
        scores = ScoreMatrix(scores.query_indices, columns, scores.values, (n_queries, len(used)))
        normalisation, targets, start = _start(scores, item_vectors[used], query_vectors, matched=follows)
        ridge = np.full(start.items.shape[1], self.ridge)
        ridge[-1] = self.bias_ridge
        by_query, by_item = list(scores.by_query()), list(scores.by_item())
        factors = start
        for _ in range(self.sweeps):
            queries = solve_rows(by_query, scores.item_indices, targets, factors.items, start.queries, ridge)
            items = solve_rows(by_item, scores.query_indices, targets, queries, start.items, ridge)
            factors = Factors(queries, items, factors.mean)
        vectors, biases = np.array(item_vectors, dtype=np.float32), np.zeros(n_items, dtype=np.float32)
        vectors[used], biases[used] = factors.items[:, :-1], factors.items[:, -1]
        return ItemModel(vectors, biases, normalisation, follows_first_stage=follows)

    def _begun_with(
        self, item_vectors: FloatArray | None, query_vectors: FloatArray | None, shape: tuple[int, int]
    ) -> tuple[FloatArray, FloatArray]:
        """The vectors given, or small random ones of the items, and zeros of the queries."""
        if (item_vectors is None) != (query_vectors is None):
            raise InputError("give both item_vectors and query_vectors, or neither: one space holds both")
        if item_vectors is not None and query_vectors is not None:
            return item_vectors, query_vectors
        random = np.random.default_rng(self.seed).normal(0, 1 / np.sqrt(self.dimensions), (shape[1], self.dimensions))
        return random, np.zeros((shape[0], self.dimensions))


@dataclass(frozen=True)
class Factors:
    """The state of a factorization, all float64: vectors with their bias as last column, and the mean ``mu``.

    Attributes:
        queries: (n_queries, d + 1), ``[u_q | b_q]``.
        items: (n_items, d + 1), ``[v_i | c_i]``.
        mean: ``mu``.
    """

    queries: FloatArray
    items: FloatArray
    mean: float


def loss(factors: Factors, start: Factors, scores: ScoreMatrix, targets: FloatArray, options: MFTransductive) -> float:
    """The objective of the module's head, at ``targets = s' - mu``."""
    u, v = factors.queries[scores.query_indices], factors.items[scores.item_indices]
    residuals = targets - np.sum(u[:, :-1] * v[:, :-1], axis=1) - u[:, -1] - v[:, -1]
    moved = sum(
        float(np.sum((now[:, :-1] - then[:, :-1]) ** 2))
        for now, then in ((factors.queries, start.queries), (factors.items, start.items))
    )
    biases = float(np.sum(factors.queries[:, -1] ** 2) + np.sum(factors.items[:, -1] ** 2))
    return float(np.sum(residuals**2)) + options.ridge * moved + options.bias_ridge * biases


def solve_rows(
    cells_of_rows: Iterable[tuple[int, IntArray]],
    columns: IntArray,
    targets: FloatArray,
    others: FloatArray,
    start: FloatArray,
    ridge: FloatArray,
) -> FloatArray:
    """One side of a factorization, the other held fast: for each row ``x`` the least

    ``sum over its cells (x . [w | 1] + e - target)^2 + sum_j ridge_j (x_j - start_j)^2``

    where ``[w | e]`` is the vector of a cell's column with its bias.

    Args:
        cells_of_rows: rows that have cells, and the positions of these in ``columns`` and ``targets``.
        columns: (n_observed,) row of ``others``.
        targets: (n_observed,).
        others: (n_columns, d + 1), the bias last.
        start: (n_rows, d + 1), the bias last.
        ridge: (d + 1,) above 0.

    Returns:
        (n_rows, d + 1); a row without cells is at its start.
    """
    solved: FloatArray = start.copy()
    alike: dict[int, list[tuple[int, IntArray]]] = {}
    for row, cells in cells_of_rows:
        alike.setdefault(len(cells), []).append((row, cells))
    for n, group in alike.items():
        at_once = max(1, _NUMBERS_AT_ONCE // (n * start.shape[1]))
        for first in range(0, len(group), at_once):
            some = group[first : first + at_once]
            rows, cells = [row for row, _ in some], np.stack([cells for _, cells in some])
            seen = others[columns[cells]]
            left = targets[cells] - seen[..., -1]
            seen[..., -1] = 1
            solved[rows] += _steps(seen, left - np.einsum("rnd,rd->rn", seen, start[rows]), ridge)
    return solved


def _steps(matrices: FloatArray, residuals: FloatArray, ridge: FloatArray) -> FloatArray:
    """(n_rows, d) ``argmin_x |matrix x - residual|^2 + sum_j ridge_j x_j^2`` of (n_rows, n, d) matrices, each by the
    smaller of its two systems."""
    _, n, d = matrices.shape
    turned = np.swapaxes(matrices, 1, 2)
    if n < d:
        scaled = matrices / ridge
        weights = np.linalg.solve(scaled @ turned + np.eye(n), residuals[..., None])
        steps: FloatArray = (np.swapaxes(scaled, 1, 2) @ weights)[..., 0]
    else:
        steps = np.linalg.solve(turned @ matrices + np.diag(ridge), turned @ residuals[..., None])[..., 0]
    return steps


def _start(
    scores: ScoreMatrix, item_vectors: FloatArray, query_vectors: FloatArray, *, matched: bool
) -> tuple[Normalisation, FloatArray, Factors]:
    """Normalisation, targets ``s' - mu``, and the factors before the first sweep; ``matched`` scores are brought to the
    inner products of these vectors, others to mean 0 and standard deviation 1."""
    v0, u0 = np.asarray(item_vectors, dtype=np.float64), np.asarray(query_vectors, dtype=np.float64)
    products = _products(u0, v0, scores.query_indices, scores.item_indices)
    normalisation = Normalisation.matching(scores.values, products if matched else np.array([-1.0, 1.0]))
    normalised: FloatArray = normalisation.apply(scores.values)
    mean = float(np.mean(normalised - products))
    start = Factors(np.hstack([u0, np.zeros((len(u0), 1))]), np.hstack([v0, np.zeros((len(v0), 1))]), mean)
    return normalisation, normalised - mean, start


def _products(u: FloatArray, v: FloatArray, rows: IntArray, columns: IntArray) -> FloatArray:
    products: FloatArray = np.sum(u[rows] * v[columns], axis=1)
    return products
