"""Transductive matrix factorization in closed form: alternating ridge solves on the observed cells (paper, eq. 3).

The paper minimises the same loss by AdamW from the dual encoder's vectors. Here the pull toward those vectors is part
of the loss, so an item with few scores stays near its start instead of following them anywhere::

    sum over observed (q, i) of (s'_qi - mu - b_q - c_i - u_q . v_i)^2
        + ridge (sum_q |u_q - u0_q|^2 + sum_i |v_i - v0_i|^2) + bias_ridge (sum_q b_q^2 + sum_i c_i^2)

with ``s'`` the normalised scores (appendix A.4) and ``u0``, ``v0`` the first stage's vectors. For fixed items every
query is a small linear system, and the other way round; each sweep solves all of them and lowers the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.base import check_shapes
from crossknn.factorization.item_model import ItemModel, Normalisation
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs


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
        self, scores: ScoreMatrix, item_vectors: FloatArray | None = None, query_vectors: FloatArray | None = None
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`. Items without a score keep their start and a bias of 0.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d) ``v0``; None starts from small random ones.
            query_vectors: (n_queries, d) ``u0``; given with ``item_vectors`` or not at all.

        Raises:
            InputError: no score at all, or shapes that do not fit.

        Cost: no CE call. A sweep takes ``O(n_observed d min(d, cells per row))``.
        """
        self.check(
            Pairs(scores.query_indices, scores.item_indices), scores.shape[1], has_vectors=item_vectors is not None
        )
        normalisation, targets, start = _start(scores, item_vectors, query_vectors, self)
        factors = start
        for _ in range(self.sweeps):
            queries = _solve_side(factors.queries, start.queries, factors.items, scores, targets, self, by_query=True)
            items = _solve_side(factors.items, start.items, queries, scores, targets, self, by_query=False)
            factors = Factors(queries, items, factors.mean)
        vectors, biases = factors.items[:, :-1].astype(np.float32), factors.items[:, -1].astype(np.float32)
        return ItemModel(vectors, biases, normalisation, follows_first_stage=item_vectors is not None)


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


def ridge_toward(matrix: FloatArray, targets: FloatArray, prior: FloatArray, ridge: FloatArray) -> FloatArray:
    """``argmin_x |matrix x - targets|^2 + sum_j ridge_j (x_j - prior_j)^2``, by the smaller of its two systems.

    Args:
        matrix: (n, d).
        targets: (n,).
        prior: (d,).
        ridge: (d,) above 0.

    Returns:
        (d,).
    """
    n, d = matrix.shape
    residual = targets - matrix @ prior
    if n < d:
        scaled = matrix / ridge
        step = scaled.T @ np.linalg.solve(scaled @ matrix.T + np.eye(n), residual)
    else:
        step = np.linalg.solve(matrix.T @ matrix + np.diag(ridge), matrix.T @ residual)
    solution: FloatArray = prior + step
    return solution


def _solve_side(
    current: FloatArray,
    start: FloatArray,
    others: FloatArray,
    scores: ScoreMatrix,
    targets: FloatArray,
    options: MFTransductive,
    *,
    by_query: bool,
) -> FloatArray:
    """All rows of one side, given the other; a row without scores stays where it is."""
    solved: FloatArray = current.copy()
    ridge = np.full(start.shape[1], options.ridge)
    ridge[-1] = options.bias_ridge
    columns = scores.item_indices if by_query else scores.query_indices
    for row, cells in scores.by_query() if by_query else scores.by_item():
        seen = others[columns[cells]]
        matrix = np.hstack([seen[:, :-1], np.ones((len(cells), 1))])
        solved[row] = ridge_toward(matrix, targets[cells] - seen[:, -1], start[row], ridge)
    return solved


def _start(
    scores: ScoreMatrix,
    item_vectors: FloatArray | None,
    query_vectors: FloatArray | None,
    options: MFTransductive,
) -> tuple[Normalisation, FloatArray, Factors]:
    """Normalisation, targets ``s' - mu``, and the factors before the first sweep."""
    n_queries, n_items = scores.shape
    if (item_vectors is None) != (query_vectors is None):
        raise InputError("give both item_vectors and query_vectors, or neither: one space holds both")
    if item_vectors is None or query_vectors is None:
        rng = np.random.default_rng(options.seed)
        v0: FloatArray = rng.normal(0, 1 / np.sqrt(options.dimensions), (n_items, options.dimensions))
        u0: FloatArray = np.zeros((n_queries, options.dimensions))
        reference: FloatArray = np.array([-1.0, 1.0])  # nothing to match: mean 0, standard deviation 1
    else:
        v0, u0 = np.asarray(item_vectors, dtype=np.float64), np.asarray(query_vectors, dtype=np.float64)
        check_shapes(scores, v0, u0)
        reference = _products(u0, v0, scores.query_indices, scores.item_indices)
    normalisation = Normalisation.matching(scores.values, reference)
    normalised: FloatArray = normalisation.apply(scores.values)
    mean = float(np.mean(normalised - _products(u0, v0, scores.query_indices, scores.item_indices)))
    start = Factors(np.hstack([u0, np.zeros((n_queries, 1))]), np.hstack([v0, np.zeros((n_items, 1))]), mean)
    return normalisation, normalised - mean, start


def _products(u: FloatArray, v: FloatArray, rows: IntArray, columns: IntArray) -> FloatArray:
    products: FloatArray = np.sum(u[rows] * v[columns], axis=1)
    return products
