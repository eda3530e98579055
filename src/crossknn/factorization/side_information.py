"""Matrix factorization with side information: what a query is expected to like, and how sure that is.

A query's scores are modelled as ``f(i) = alpha <x_q, x_i> + beta + c_i + phi_i . w + noise``: the first stage's inner
product, an item bias ``c``, and ``phi_i = [F_i | x_i | 1]``: factors ``F`` learned from the scores, the first stage's
vectors ``x`` once more (a query may differ from its own vector in any direction), and a constant. Before its first
score, ``w`` is expected to be ``m + (x_q - c) M``, a ridge regression of the train queries' weights on their vectors,
with variances of its own for the three parts. A search with :class:`~crossknn.BayesianRidge` over ``phi`` starts from
there, and is exactly as bold in each direction as the train queries were.

``F = V L``: ``r_qi ~ b_q + c_i + u_q . v_i`` on the observed cells by variational Bayes
(:mod:`crossknn.factorization.variational`), ``r`` being what the mean leaves over, and ``L L^T = U^T U / |Q|``, so that
a standard normal ``w`` is a typical train query. ``V`` starts from the SVD of rows that a Gaussian process over ``x``
has filled in. The ridge of ``M`` and the variances are those that fit train queries best which were held out of the
factors (squared error; likelihood).

Where the first stage ranks by late interaction, the mean has its score as well, times a constant: which words meet no
item's vector can say.

An item that was never scored has its vector, and the factors that a ridge regression of the others' tells of it.

A round costs what ``phi`` is wide. Where that is beyond ``width``, factors and vectors are turned at last to the
directions in which queries' scores may vary most, and the others are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.base import check_shapes
from crossknn.factorization.item_model import ItemModel, LinearMap, Normalisation
from crossknn.factorization.query_prior import (
    RIDGES,
    Expected,
    Factors,
    Observed,
    best_ridge,
    expected_of,
    variances_of,
    weights_of,
)
from crossknn.factorization.variational import factorize
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs

_ITEMS_AT_ONCE = 8192
"""In double precision: a million of them beside their vectors would take most of the memory that there is."""

_MOST_HELD_OUT = 500

_FEWEST_SCORES = 10
"""Held-out scores below which the first stage's weight would be a guess."""


@dataclass(frozen=True)
class MFSideInformation:
    """Learned factors beside the first stage's vectors, with a prior for the query (needs a dense first stage).

    Attributes:
        dimensions: of the learned factors; fewer where there are fewer train queries.
        width: most dimensions of an item vector, of the ``dimensions + d + 1`` that it would have.
        sweeps: rounds of solving all queries and all items.
        length: of the Gaussian process that fills in the start, in distance between vectors.
        held_out: share of the train queries that variances and the weight of the first stage's scores are estimated
            on, 500 of them at most.
        seed: of that share.
    """

    dimensions: int = 48
    width: int = 512
    sweeps: int = 12
    length: float = 0.7
    held_out: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("dimensions", 1), ("width", 1), ("sweeps", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")
        if not self.length > 0:
            raise InputError(f"length must be above 0, got {self.length}")
        if not 0 < self.held_out < 1:
            raise InputError(f"held_out must lie between 0 and 1, got {self.held_out}")

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`: vectors, and two train queries with scores.

        Raises:
            InputError: what is missing.
        """
        if not has_vectors:
            raise InputError("MF with side information takes the first stage's vectors; give a dense first stage")
        if len(np.unique(pairs.query_indices)) < 2:
            raise InputError("MF with side information needs scores of two train queries at least")

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d), needed.
            query_vectors: (n_queries, d), needed.
            first_stage_scores: (n_observed,), see :class:`~crossknn.factorization.Factorization`. What they tell of a
                score is in the mean, and what they leave is learned.

        Raises:
            InputError: no vectors, shapes that do not fit, or scores of fewer than two queries.

        Cost: no CE call. The start takes ``O(n_queries (n_items (n_queries + c) + c^3))`` for ``c`` cells per query;
        sweeps take what :func:`~crossknn.factorization.variational.factorize` says, twice; the variances take fifty
        times ``O(min(c, dimensions + d)^3)`` for each query held out.
        """
        given = item_vectors is not None and query_vectors is not None
        self.check(scores.pairs, scores.shape[1], has_vectors=given)
        assert item_vectors is not None  # as just checked
        assert query_vectors is not None
        x, x_q = np.asarray(item_vectors), np.asarray(query_vectors, dtype=np.float64)
        check_shapes(scores, x, x_q)
        rows = [(query, cells) for query, cells in scores.by_query() if len(cells)]
        asked = np.random.default_rng(self.seed).permutation(len(rows))
        n_held_out = min(max(1, round(self.held_out * len(rows))), len(rows) - 1, _MOST_HELD_OUT)
        held_out, kept = ([rows[n] for n in some] for some in (asked[:n_held_out], asked[n_held_out:]))
        first_stage_weight = 0.0
        if first_stage_scores is not None:
            cells_held_out = np.concatenate([cells for _, cells in held_out])
            first_stage_weight = _first_stage_weight(scores, x, x_q, first_stage_scores, cells_held_out)
            scores = replace(scores, values=scores.values - first_stage_weight * first_stage_scores)
        observed = Observed(scores, x, x_q)
        filled = dict(zip((query for query, _ in rows), self._filled(observed, rows), strict=True))
        partial = self._factors(observed, kept, filled)
        spread = variances_of(observed, held_out, partial, Expected.nothing(partial, x))
        weights = weights_of(observed, kept, partial, spread)
        ridge = best_ridge(observed, held_out, partial, weights)
        left = variances_of(observed, held_out, partial, expected_of(*weights, ridge))
        whole = self._factors(observed, rows, filled)
        expected = expected_of(*weights_of(observed, rows, whole, spread), ridge)
        model = _item_model(x, whole, expected, left, self.width)
        return replace(model, first_stage_weight=first_stage_weight * model.normalisation.scale)

    def _factors(
        self, observed: Observed, rows: list[tuple[int, IntArray]], filled: Mapping[int, FloatArray]
    ) -> Factors:
        """Mean, biases and factors from some of the train queries; ``filled`` has what :meth:`_filled` made of each."""
        cells, x = np.concatenate([some for _, some in rows]), observed.x
        i, s, design = observed.scores.item_indices[cells], observed.scores.values[cells], observed.design(cells)
        alpha, beta = (float(value) for value in np.linalg.lstsq(design, s, rcond=None)[0])
        residuals = s - design @ [alpha, beta]
        row_of = np.repeat(np.arange(len(rows)), [len(some) for _, some in rows])
        d = min(self.dimensions, len(rows), len(x))
        combined = np.array([1, -alpha, -beta], dtype=np.float32)
        u, v = _leading(np.stack([filled[query] @ combined for query, _ in rows]), d)
        queries, items = factorize(row_of, i, residuals, len(rows), v @ _root(u), self.sweeps)
        return Factors(alpha, beta, items[:, -1], items[:, :-1] @ _root(queries[:, :-1]))

    def _filled(self, observed: Observed, rows: list[tuple[int, IntArray]]) -> Iterator[FloatArray]:
        """For each row (n_items, 3) float32: a Gaussian process fills in its scores, and both columns of the mean's
        design. It is linear, so their combinations are residuals of all items, whatever ``alpha`` and ``beta`` are."""
        x = observed.x.astype(np.float32, copy=False)
        squares = np.einsum("nd,nd->n", x, x)
        for _, cells in rows:
            seen = observed.scores.item_indices[cells]
            distances = np.maximum(squares[:, None] + squares[seen] - 2 * (x @ x[seen].T), 0.0)
            kernel = np.exp(distances / np.float32(-2 * self.length**2)) + np.float32(1)
            inner = kernel[seen].astype(np.float64)
            inner[np.diag_indices_from(inner)] += 0.125
            known = np.column_stack([observed.scores.values[cells], observed.design(cells)])
            yield kernel @ np.linalg.solve(inner, known).astype(np.float32)


def _root(rows: FloatArray) -> FloatArray:
    """(d, d) lower ``L`` with ``L L^T`` the mean square of (n, d) rows, and a little beside: scores that the mean
    explains whole leave nothing."""
    moment = rows.T @ rows / len(rows)
    lower: FloatArray = np.linalg.cholesky(
        moment + max(1e-9 * np.trace(moment) / len(moment), 1e-12) * np.eye(len(moment))
    )
    return lower


def _first_stage_weight(
    scores: ScoreMatrix, x: FloatArray, x_q: FloatArray, first_stage_scores: FloatArray, cells: IntArray
) -> float:
    """What one point of the first stage's score adds to the cross-encoder's, by least squares on some of the cells, the
    inner products beside it; 0 where they fall as it rises, or are too few to tell.

    On those of the queries held out: a first stage may have learned from the others, and flatter itself there.

    Raises:
        InputError: not one score for each pair.
    """
    if first_stage_scores.shape != scores.values.shape:
        raise InputError(
            f"first-stage scores of shape {first_stage_scores.shape} do not fit {len(scores.values)} observed pairs"
        )
    if len(cells) < _FEWEST_SCORES:
        return 0.0
    design = np.column_stack([first_stage_scores[cells], Observed(scores, x, x_q).design(cells)])
    return max(0.0, float(np.linalg.lstsq(design, scores.values[cells], rcond=None)[0][0]))


def _leading(matrix: FloatArray, d: int) -> tuple[FloatArray, FloatArray]:
    """(n, d) and (m, d) halves of the ``d`` leading terms of an (n, m) matrix's singular value decomposition, from the
    products of its shorter side: it is far longer on one, and held in single precision."""
    if len(matrix) > matrix.shape[1]:
        right, left = _leading(matrix.T, d)
        return left, right
    blocks = (matrix[:, at : at + 4096].astype(np.float64) for at in range(0, matrix.shape[1], 4096))
    squares, left = np.linalg.eigh(sum(block @ block.T for block in blocks))
    roots = np.maximum(squares[::-1][:d], 0) ** 0.25
    left = left[:, ::-1][:, :d]
    right = matrix.T @ (left / np.maximum(roots, 1e-6 * max(roots[0], 1e-6))).astype(matrix.dtype)
    return left * roots, right.astype(np.float64)


def _blocks(n_items: int) -> list[slice]:
    return [slice(start, start + _ITEMS_AT_ONCE) for start in range(0, n_items, _ITEMS_AT_ONCE)]


def _factors_of(x: FloatArray, factors: FloatArray) -> LinearMap:
    """Ridge regression of items' factors on their vectors: the ridge that tells an item left out best."""
    centre, mean = x.mean(axis=0, dtype=np.float64), factors.mean(axis=0)
    blocks = _blocks(len(x))
    squares, axes = np.linalg.eigh(sum(part.T @ part for part in (x[rows] - centre for rows in blocks)))
    products = axes.T @ sum((x[rows] - centre).T @ (factors[rows] - mean) for rows in blocks)
    shrunk = {ridge: 1 / (np.maximum(squares, 0) + ridge) for ridge in RIDGES}
    errors = dict.fromkeys(RIDGES, 0.0)
    for rows in blocks:
        turned = (x[rows] - centre) @ axes
        for ridge, shares in shrunk.items():
            left = factors[rows] - mean - turned @ (shares[:, None] * products)
            leverage = np.square(turned) @ shares + 1 / len(x)
            errors[ridge] += float(np.square(left / np.maximum(1 - leverage, 1e-9)[:, None]).sum())
    matrix = axes @ (shrunk[min(RIDGES, key=errors.__getitem__)][:, None] * products)
    return LinearMap(matrix, mean - centre @ matrix)


def _item_model(x: FloatArray, known: Factors, expected: Expected, variances: FloatArray, width: int) -> ItemModel:
    """Scores are normalised to unit noise, so that one solver fits every index. If factors and vectors are wider than
    ``width`` allows they are in their principal axes: a query's weights are expected to vary by one in any direction,
    so the first axes hold most of what its scores may differ by. The constant stays, however little it varies: the
    level of all scores is in its weight's mean."""
    roots = np.sqrt(variances / variances[3])
    noise = float(np.sqrt(variances[3]))
    d, width_of_x = known.factors.shape[1], x.shape[1]
    blocks = _blocks(len(x))

    def varying(rows: slice) -> FloatArray:
        return np.column_stack([roots[0] * known.factors[rows], roots[1] * x[rows]])

    to_space = expected.matrix.copy()
    to_space[:, d : d + width_of_x] += known.alpha * np.eye(width_of_x)
    offset = expected.mean - expected.centre @ expected.matrix
    offset[-1] += known.beta
    scales = noise * np.repeat(roots[:3], [d, width_of_x, 1])
    factor_map = _factors_of(x, known.factors)
    to_items = np.column_stack([roots[0] * factor_map.matrix, roots[1] * np.eye(width_of_x), np.zeros(width_of_x)])
    offset_of_items = np.concatenate([roots[0] * factor_map.offset, np.zeros(width_of_x), roots[2:3]])
    axes = None
    if d + width_of_x >= width:
        moment = sum(part.T @ part for part in map(varying, blocks))
        axes = np.linalg.eigh(moment)[1][:, ::-1][:, : width - 1]

    def turned(rows: FloatArray) -> FloatArray:
        if axes is not None:
            rows = np.concatenate([rows[..., :-1] @ axes, rows[..., -1:]], axis=-1)
        return rows.astype(np.float32)

    vectors = np.empty((len(x), min(width, d + width_of_x + 1)), dtype=np.float32)
    for rows in blocks:
        some = varying(rows)
        vectors[rows] = turned(np.column_stack([some, np.full(len(some), roots[2])]))
    return ItemModel(
        vectors,
        (known.biases / noise).astype(np.float32),
        Normalisation(scale=1 / noise),
        query_map=LinearMap(turned(to_space / scales), turned(offset / scales)),
        noise=1.0,
        item_map=LinearMap(turned(to_items), turned(offset_of_items)),
    )
