"""The factorization against its slow reference, and on matrices whose answer is known."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import MFTransductive
from crossknn.errors import InputError
from crossknn.factorization import transductive
from crossknn.factorization.transductive import Factors, _start, _steps, loss, solve_rows
from crossknn.scores import ScoreMatrix

N_QUERIES, N_ITEMS, D = 14, 20, 4
OPTIONS = MFTransductive(ridge=0.7, bias_ridge=0.2, dimensions=D, seed=3)


def _observed(share: float, seed: int = 0, n_queries: int = N_QUERIES, n_items: int = N_ITEMS) -> ScoreMatrix:
    """Random scores, among them zeros; item 0 and query 0 are never scored, item 1 once."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n_queries, n_items)) < share
    mask[0], mask[:, 0], mask[:, 1], mask[1, 1] = False, False, False, True
    rows, columns = np.nonzero(mask)
    values = np.where(rng.random(len(rows)) < 0.2, 0.0, rng.normal(2, 5, len(rows)))
    return ScoreMatrix(rows, columns, values, (n_queries, n_items))


def _vectors(seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {"item_vectors": rng.normal(size=(N_ITEMS, D)), "query_vectors": rng.normal(size=(N_QUERIES, D))}


def _half_sweeps(scores: ScoreMatrix, vectors: dict[str, np.ndarray], sweeps: int) -> list[tuple[Any, ...]]:
    """The states of the fast factorization, after each side was solved; the arguments of ``loss``."""
    given = OPTIONS._begun_with(vectors.get("item_vectors"), vectors.get("query_vectors"), scores.shape)
    _, targets, start = _start(scores, *given, matched=bool(vectors))
    states, now = [(start, start, scores, targets, OPTIONS)], start
    for _ in range(sweeps):
        for by_query in (True, False):
            others, held = (now.items, start.queries) if by_query else (now.queries, start.items)
            columns = scores.item_indices if by_query else scores.query_indices
            rows, ridge = scores.by_query() if by_query else scores.by_item(), np.full(held.shape[1], OPTIONS.ridge)
            ridge[-1] = OPTIONS.bias_ridge
            solved = solve_rows(rows, columns, targets, others, held, ridge)
            now = Factors(solved, now.items, now.mean) if by_query else Factors(now.queries, solved, now.mean)
            states.append((now, start, scores, targets, OPTIONS))
    return states


def _sweep(factors: Factors, start: Factors, cells: list[tuple[int, int, float]], options: MFTransductive) -> Factors:
    """One sweep over all queries and then all items, written to be obviously right and not to be fast.

    Cells are visited one by one, and every system is the plain normal equation.

    Args:
        factors: state before the sweep.
        start: what vectors are held to.
        cells: observed ``(query, item, s' - mu)``.
        options: settings.
    """
    queries, items = factors.queries.copy(), factors.items.copy()
    for q in range(len(queries)):
        seen = [(items[i], value) for query, i, value in cells if query == q]
        queries[q] = _normal_equation(seen, start.queries[q], options) if seen else queries[q]
    for i in range(len(items)):
        seen = [(queries[q], value) for q, item, value in cells if item == i]
        items[i] = _normal_equation(seen, start.items[i], options) if seen else items[i]
    return Factors(queries, items, factors.mean)


def _normal_equation(seen: list[tuple[np.ndarray, float]], start: np.ndarray, options: MFTransductive) -> np.ndarray:
    d = len(start) - 1
    ridge = np.diag([options.ridge] * d + [options.bias_ridge])
    left = ridge.copy()
    right = ridge @ start
    for other, value in seen:
        features = np.append(other[:d], 1.0)
        left += np.outer(features, features)
        right += features * (value - other[d])
    return np.asarray(np.linalg.solve(left, right))


@pytest.mark.parametrize("vectors", [_vectors(), {}], ids=["dense", "random start"])
@pytest.mark.parametrize("share", [0.1, 0.6])
@pytest.mark.parametrize("sweeps", [1, 3])
def test_sweeps_are_the_references(vectors: dict[str, np.ndarray], share: float, sweeps: int) -> None:
    scores = _observed(share)
    factors, start, _, targets, _ = _half_sweeps(scores, vectors, sweeps)[-1]
    cells = [
        (int(q), int(i), float(t)) for q, i, t in zip(scores.query_indices, scores.item_indices, targets, strict=True)
    ]
    slow = start
    for _ in range(sweeps):
        slow = _sweep(slow, start, cells, OPTIONS)
    np.testing.assert_allclose(factors.queries, slow.queries, atol=1e-8)
    np.testing.assert_allclose(factors.items, slow.items, atol=1e-8)
    options = MFTransductive(OPTIONS.ridge, OPTIONS.bias_ridge, sweeps, D, OPTIONS.seed)
    model = options.fit(scores, **vectors)
    assert model.vectors.dtype == model.biases.dtype == np.float32
    np.testing.assert_allclose(model.vectors, slow.items[:, :-1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(model.biases, slow.items[:, -1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("vectors", [_vectors(), {}], ids=["dense", "random start"])
@pytest.mark.parametrize("share", [0.1, 0.6])
def test_each_half_of_each_sweep_lowers_the_loss(vectors: dict[str, np.ndarray], share: float) -> None:
    losses = [loss(*state) for state in _half_sweeps(_observed(share), vectors, 6)]
    assert all(after < before for before, after in itertools.pairwise(losses))


@pytest.mark.parametrize("sweeps", [0, 5])
def test_items_without_a_score_keep_their_start_and_have_no_bias(sweeps: int) -> None:
    vectors = _vectors()
    model = MFTransductive(sweeps=sweeps).fit(_observed(0.3), **vectors)
    moved = np.abs(model.vectors - vectors["item_vectors"].astype("f4")).max(axis=1) > 0
    assert moved.tolist() == ([False] + [True] * (N_ITEMS - 1) if sweeps else [False] * N_ITEMS)
    assert (model.biases != 0).tolist() == moved.tolist()


@pytest.mark.parametrize("start", ["near", "random"])
def test_a_low_rank_matrix_with_biases_is_recovered_on_cells_never_seen(start: str) -> None:
    rng = np.random.default_rng(5)
    n_queries, n_items, d = 40, 30, 2
    u, v = rng.normal(size=(n_queries, d)), rng.normal(size=(n_items, d))
    exact = 8 * (u @ v.T) + rng.normal(size=(n_queries, 1)) + 5 * rng.normal(size=n_items) - 20
    seen = rng.random(exact.shape) < 0.6
    scores = ScoreMatrix(*np.nonzero(seen), exact[seen], exact.shape)
    given = {"item_vectors": v + 0.3 * rng.normal(size=v.shape), "query_vectors": u} if start == "near" else {}
    model = MFTransductive(ridge=1e-6, bias_ridge=1e-6, sweeps=120, dimensions=d).fit(scores, **given)
    for q in range(n_queries):
        targets = model.normalisation.apply(exact[q]) - model.biases
        features = np.hstack([model.vectors, np.ones((n_items, 1))])
        fit = np.linalg.lstsq(features[seen[q]], targets[seen[q]], rcond=None)[0]
        predicted = model.normalisation.invert(features @ fit + model.biases)
        np.testing.assert_allclose(predicted[~seen[q]], exact[q, ~seen[q]], atol=0.05)


@given(n=st.integers(1, 9), d=st.integers(1, 7), seed=st.integers(0, 99))
def test_steps_are_least_squares_with_the_ridge_as_further_rows(n: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrices, targets, ridge = rng.normal(size=(3, n, d)), rng.normal(size=(3, n)), rng.random(d) + 0.1
    for matrix, target, step in zip(matrices, targets, _steps(matrices, targets, ridge), strict=True):
        rows = np.vstack([matrix, np.diag(np.sqrt(ridge))])
        expected = np.linalg.lstsq(rows, np.concatenate([target, np.zeros(d)]), rcond=None)[0]
        np.testing.assert_allclose(step, expected, atol=1e-9)


def test_rows_are_solved_alike_however_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = _observed(0.5)
    others, start = (np.random.default_rng(n).normal(size=(N_QUERIES + N_ITEMS, D)) for n in range(2))
    arguments = scores.item_indices, scores.values, others, start, np.ones(D)
    together = solve_rows(scores.by_query(), *arguments)
    monkeypatch.setattr(transductive, "_NUMBERS_AT_ONCE", 1)
    np.testing.assert_allclose(solve_rows(scores.by_query(), *arguments), together, atol=1e-12)


def test_the_seed_decides_the_random_start() -> None:
    once, again, other = (MFTransductive(dimensions=3, seed=seed).fit(_observed(0.5)).vectors for seed in (1, 1, 2))
    np.testing.assert_array_equal(once, again)
    assert not np.allclose(once, other)


def test_constant_scores_are_factorized_to_finite_vectors() -> None:
    scores = _observed(0.5)
    constant = ScoreMatrix(scores.query_indices, scores.item_indices, np.full(len(scores.values), 0.1), scores.shape)
    model = MFTransductive().fit(constant, **_vectors())
    assert np.isfinite(model.vectors).all()
    assert model.normalisation.scale == 1


_none = np.empty(0, dtype=np.int64)
_two = {"item_vectors": np.ones((N_ITEMS, 2)), "query_vectors": np.ones((N_QUERIES, 2))}


@pytest.mark.parametrize(
    ("scores", "vectors", "message"),
    [
        (ScoreMatrix(_none, _none, np.empty(0), (3, 4)), {}, "no score"),
        (_observed(0.5), _two | {"item_vectors": np.ones((N_ITEMS + 1, 2))}, "do not fit"),
        (_observed(0.5), _two | {"query_vectors": np.ones((N_QUERIES - 1, 2))}, "do not fit"),
        (_observed(0.5), _two | {"query_vectors": np.ones((N_QUERIES, 3))}, "do not fit"),
        (_observed(0.5), {"item_vectors": np.ones((N_ITEMS, 2))}, "query_vectors"),
        (_observed(0.5), {"query_vectors": np.ones((N_QUERIES, 2))}, "item_vectors"),
    ],
    ids=["nothing", "items", "queries", "widths", "items alone", "queries alone"],
)
def test_what_cannot_be_factorized(scores: ScoreMatrix, vectors: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MFTransductive().fit(scores, **vectors)


@pytest.mark.parametrize("settings", [{"ridge": 0.0}, {"bias_ridge": -1.0}, {"sweeps": -1}, {"dimensions": 0}], ids=str)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        MFTransductive(**settings)
