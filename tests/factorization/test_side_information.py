"""MF with side information: its variances on data of its own kind, and what a search gains from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import AXN, BM25, BuildOptions, Dense, FunctionScorer, GivenVectors, Index, PerQuery, ReplayScorer, Rerank
from crossknn.errors import InputError
from crossknn.factorization import MFSideInformation, MFTransductive, query_prior, side_information
from crossknn.factorization.base import Factorization
from crossknn.scores import Pairs, ScoreMatrix
from crossknn.search import METHODS, Task, run_rounds

N_TRAIN, N_TEST, N_ITEMS, D, K = 60, 20, 300, 8, 3
TRUE = np.array([1.0, 2.0, 4.0, 0.3])
"""Variances of the weights of factors, vectors and constant, and of the noise."""


def _planted(seed: int = 0, told: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray, query_prior.Factors]:
    """Scores drawn from the model itself: (queries, items), and the vectors and factors they were drawn with.

    ``told`` is how much a query's vector says of its weights.
    """
    rng = np.random.default_rng(seed)
    x, x_q = (rng.normal(size=(n, D)) / np.sqrt(D) for n in (N_ITEMS, N_TRAIN + N_TEST))
    known = query_prior.Factors(3.0, -2.0, 0.7 * rng.normal(size=N_ITEMS), rng.normal(size=(N_ITEMS, K)))
    draw = [np.sqrt(v) * rng.normal(size=(len(x_q), width)) for v, width in zip(TRUE, (K, D, 1, N_ITEMS), strict=True)]
    draw[0] += told * x_q @ rng.normal(size=(D, K))
    scores = known.alpha * x_q @ x.T + known.beta + known.biases
    return scores + draw[0] @ known.factors.T + draw[1] @ x.T + draw[2] + draw[3], x, x_q, known


def _observed(exact: np.ndarray, share: float) -> ScoreMatrix:
    seen = np.random.default_rng(1).random((N_TRAIN, exact.shape[1])) < share
    return ScoreMatrix(*np.nonzero(seen), exact[:N_TRAIN][seen], seen.shape)


def test_variances_are_those_the_scores_were_drawn_with() -> None:
    exact, x, x_q, known = _planted()
    scores = _observed(exact, 0.4)
    nothing = query_prior.Expected.nothing(known, x)
    observed = query_prior.Observed(scores, x, x_q)
    found = query_prior.variances_of(observed, list(scores.by_query()), known, nothing)
    np.testing.assert_allclose(found, TRUE, rtol=0.4)
    np.testing.assert_allclose(found[[0, 3]], TRUE[[0, 3]], rtol=0.2)


def test_many_cells_of_a_query_weigh_as_they_would_in_the_full_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, x, x_q, known = _planted()
    scores = _observed(exact, 0.4)  # some 120 cells of a query for 12 weights
    observed, rows = query_prior.Observed(scores, x, x_q), list(scores.by_query())
    nothing = query_prior.Expected.nothing(known, x)
    quick = query_prior.variances_of(observed, rows, known, nothing)
    weights, _ = query_prior.weights_of(observed, rows, known, quick)
    monkeypatch.setattr(query_prior, "_rotated", lambda parts, left: (parts, left, left[:0]))
    np.testing.assert_allclose(quick, query_prior.variances_of(observed, rows, known, nothing), rtol=1e-9)
    np.testing.assert_allclose(weights, query_prior.weights_of(observed, rows, known, quick)[0], atol=1e-9)


@pytest.mark.parametrize("shape", [(7, 9000), (9000, 7), (7, 7)])
def test_leading_terms_are_those_of_the_singular_value_decomposition(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    left, singular, right = np.linalg.svd(matrix.astype(np.float64), full_matrices=False)
    halves = side_information._leading(matrix, 3)
    np.testing.assert_allclose(halves[0] @ halves[1].T, (left[:, :3] * singular[:3]) @ right[:3], atol=1e-4)
    for half in halves:
        np.testing.assert_allclose(half.T @ half, np.diag(singular[:3]), rtol=1e-5, atol=1e-3)


def test_the_mean_and_the_prior_are_the_models() -> None:
    _, x, x_q, known = _planted()
    rng = np.random.default_rng(2)
    centre, matrix = rng.normal(size=D), rng.normal(size=(D, K + D + 1))
    expected = query_prior.Expected(centre, rng.normal(size=K + D + 1), matrix)
    model = side_information._item_model(x, known, expected, TRUE, width=K + D + 1)
    prior = model.query_vectors(x_q.astype(np.float32))
    assert prior is not None
    weights = expected.mean + (x_q - centre) @ matrix
    parts = weights[:, :K] @ known.factors.T + weights[:, K:-1] @ x.T + weights[:, -1:]
    mean = known.alpha * x_q @ x.T + known.beta + known.biases + parts
    np.testing.assert_allclose(model.normalisation.invert(prior @ model.vectors.T + model.biases), mean, atol=1e-4)
    kernel = model.vectors @ model.vectors.T / model.normalisation.scale**2  # of a standard normal weight
    parts = TRUE[0] * known.factors @ known.factors.T + TRUE[1] * x @ x.T + TRUE[2]
    np.testing.assert_allclose(kernel, parts, atol=1e-3)
    assert model.normalisation.scale == pytest.approx(TRUE[3] ** -0.5)


@pytest.mark.parametrize(("told", "left"), [(0.0, 1.1), (4.0, 0.4)])
def test_what_a_querys_vector_tells_of_its_weights_is_learned(told: float, left: float) -> None:
    exact, x, x_q, known = _planted(told=told)
    model = MFSideInformation(dimensions=K).fit(_observed(exact, 0.3), x, x_q[:N_TRAIN])
    prior = model.query_vectors(x_q[N_TRAIN:].astype(np.float32))
    assert prior is not None
    expected = model.normalisation.invert(prior @ model.vectors.T + model.biases)
    untold = known.alpha * x_q[N_TRAIN:] @ x.T + known.beta + known.biases
    errors = [np.mean((exact[N_TRAIN:] - mean) ** 2) for mean in (expected, untold)]
    assert errors[0] < left * errors[1]


def test_a_search_finds_more_with_it_than_with_ridge_factors() -> None:
    exact, x, x_q, _ = _planted()
    scores, asked = _observed(exact, 0.3), exact[N_TRAIN:]

    class Replayed:
        def score(self, queries: Any, query_indices: np.ndarray, item_indices: np.ndarray) -> np.ndarray:
            return np.array([asked[int(queries[q]), i] for q, i in zip(query_indices, item_indices, strict=True)])

    found = {}
    methods: dict[str, tuple[Factorization, AXN]] = {
        "bayes": (MFSideInformation(dimensions=K), METHODS["bayes"]),  # type: ignore[dict-item]
        "axn": (MFTransductive(), AXN()),
    }
    for name, (factorization, method) in methods.items():
        model = factorization.fit(scores, x, x_q[:N_TRAIN])
        vectors = x_q[N_TRAIN:].astype(np.float32)
        first = (x_q[N_TRAIN:] @ x.T).astype(np.float32)
        task = Task([str(n) for n in range(N_TEST)], Replayed(), first, model, model.query_vectors(vectors))
        indices = run_rounds(method, task, 40).indices
        best = np.argsort(-asked, axis=1)[:, :10]
        found[name] = np.mean([np.isin(row, seen).mean() for row, seen in zip(best, indices, strict=True)])
    assert found["bayes"] > found["axn"] + 0.1


def test_what_the_first_stage_scores_beside_its_vectors_is_in_the_mean() -> None:
    """Of pairs, which no item's vector could hold: with it a search finds what it finds of scores without them."""
    plain, x, x_q, _ = _planted()
    pairs = np.random.default_rng(5).normal(size=plain.shape)
    exact = plain + 3.0 * pairs
    scores = _observed(exact, 0.3)
    told = pairs[scores.query_indices, scores.item_indices]
    model = MFSideInformation(dimensions=K).fit(scores, x, x_q[:N_TRAIN], told)
    assert model.first_stage_weight / model.normalisation.scale == pytest.approx(3.0, rel=0.05)
    asked = slice(N_TRAIN, None)
    vectors = model.query_vectors(x_q[asked].astype(np.float32))
    assert vectors is not None
    scorer = ReplayScorer(exact[asked], [str(n) for n in range(N_TEST)], [str(n) for n in range(N_ITEMS)])
    bound = scorer.prepare([str(n) for n in range(N_ITEMS)])
    first = pairs[asked].astype(np.float32)
    task = Task([str(n) for n in range(N_TEST)], bound, first, model, vectors)
    best = np.argsort(-exact[asked], axis=1)[:, :10]

    def found(task: Task, method: Any) -> float:
        indices = run_rounds(method, task, 60).indices
        return float(np.mean([np.isin(row, seen).mean() for row, seen in zip(best, indices, strict=True)]))

    blind = replace(task, item_model=replace(model, first_stage_weight=0.0))
    assert found(task, METHODS["bayes"]) > found(blind, METHODS["bayes"]) + 0.2
    by_vectors = Rerank("item vectors")
    assert found(task, by_vectors) > found(blind, by_vectors) + 0.2
    progress = run_rounds(METHODS["bayes"], task, 60)  # what it predicts is what it then sees, within its noise
    late = progress.round_of_column() > 10
    assert np.mean((progress.predicted[:, late] - progress.scores[:, late]) ** 2) < 0.3 * exact[asked].var()


def test_a_first_stage_that_tells_nothing_has_no_weight() -> None:
    exact, x, x_q, _ = _planted()
    scores = _observed(exact, 0.3)
    model = MFSideInformation(dimensions=K).fit(scores, x, x_q[:N_TRAIN], -scores.values)
    plain = MFSideInformation(dimensions=K).fit(scores, x, x_q[:N_TRAIN])
    assert model.first_stage_weight == 0.0
    np.testing.assert_array_equal(model.vectors, plain.vectors)
    with pytest.raises(InputError, match="do not fit"):
        MFSideInformation(dimensions=K).fit(scores, x, x_q[:N_TRAIN], scores.values[1:])


def test_items_that_were_never_scored_are_placed_by_their_vectors() -> None:
    """Factors that vectors tell of: learned from some items, they are known of others."""
    rng = np.random.default_rng(0)
    _, x, x_q, known = _planted()
    factors = 3 * x @ rng.normal(size=(D, K)) + 0.1 * rng.normal(size=(N_ITEMS, K))
    exact = (
        known.alpha * x_q @ x.T + rng.normal(size=(len(x_q), K)) @ factors.T + 0.1 * rng.normal(size=known.biases.shape)
    )
    old = slice(0, 240)
    model = MFSideInformation(dimensions=K).fit(_observed(exact[:, old], 0.4), x[old], x_q[:N_TRAIN])
    placed = model.place(x[240:].astype(np.float32))
    solver = METHODS["bayes"].solver  # type: ignore[attr-defined]
    told = [solver.solve(model.vectors[:40], model.normalisation.apply(row[:40])) for row in exact[N_TRAIN:]]
    expected = model.normalisation.invert(np.array([placed @ query.vector + query.intercept for query in told]))
    left = np.mean((exact[N_TRAIN:, 240:] - expected) ** 2)
    assert left < 0.1 * exact[N_TRAIN:, 240:].var()
    width = x.shape[1]
    np.testing.assert_allclose(
        model.place(x[old].astype(np.float32))[:, -width - 1 :], model.vectors[:, -width - 1 :], atol=1e-5
    )


def test_narrow_vectors_hold_the_most_of_what_queries_may_differ_by() -> None:
    exact, x, x_q, _ = _planted()
    whole, narrow = (
        MFSideInformation(dimensions=K, width=width).fit(_observed(exact, 0.3), x, x_q[:N_TRAIN])
        for width in (K + D + 1, D)
    )
    assert whole.vectors.shape[1] == K + D + 1
    assert narrow.vectors.shape[1] == D
    axes = np.linalg.svd(whole.vectors[:, :-1].astype(np.float64), full_matrices=False)[2][: D - 1]
    best = np.eye(K + D + 1)  # the constant stays; of the rest the least is left out (Eckart and Young)
    best[:-1, :-1] = axes.T @ axes
    asked, new = (vectors.astype(np.float32) for vectors in (x_q[N_TRAIN:], x[:7]))
    priors = [model.query_vectors(asked) for model in (whole, narrow)]
    for of_whole, of_narrow in (
        (whole.vectors, narrow.vectors),
        (whole.place(new), narrow.place(new)),
        priors,
    ):
        assert of_whole is not None
        assert of_narrow is not None
        np.testing.assert_allclose(of_whole @ best @ whole.vectors.T, of_narrow @ narrow.vectors.T, atol=2e-3)


def test_narrow_vectors_know_the_level_of_all_scores() -> None:
    """Which hardly varies between queries, so its direction holds little of what they may differ by."""
    exact, x, x_q, _ = _planted()
    far = exact - exact.mean(axis=1, keepdims=True) - 30.0
    narrow = MFSideInformation(dimensions=K, width=D).fit(_observed(far, 0.3), x, x_q[:N_TRAIN])
    prior = narrow.query_vectors(x_q[N_TRAIN:].astype(np.float32))
    assert prior is not None
    expected = narrow.normalisation.invert(prior @ narrow.vectors.T + narrow.biases)
    assert expected.mean() == pytest.approx(far[N_TRAIN:].mean(), abs=1.0)


def test_an_index_keeps_the_prior(tmp_path: Path) -> None:
    exact, x, x_q, _ = _planted()
    vectors = {f"i{n}": v for n, v in enumerate(x)} | {f"q{n}": v for n, v in enumerate(x_q)}
    scorer = FunctionScorer(lambda pairs: [exact[int(q[1:]), int(i[1:])] for q, i in pairs], name="planted")
    stage = Dense(GivenVectors(vectors, name="given"))
    items, train = list(vectors)[:N_ITEMS], [f"q{n}" for n in range(12)]
    options = BuildOptions(plan=PerQuery(10, 10), factorization=MFSideInformation(dimensions=4, sweeps=2))
    index = Index.build(items, scorer=scorer, first_stage=stage, queries=train, options=options, out=tmp_path / "i")
    loaded = Index.load(tmp_path / "i", scorer=scorer, first_stage=stage)
    asked = [f"q{n}" for n in range(N_TRAIN, N_TRAIN + 3)]
    assert index.item_model is not None
    assert loaded.item_model is not None
    np.testing.assert_array_equal(loaded.item_model.place(x[:5]), index.item_model.place(x[:5]))
    results = [i.search_batch(asked, k=5, budget=20, method=METHODS["bayes"]) for i in (index, loaded)]
    assert [[h.id for h in r] for r in results[0]] == [[h.id for h in r] for r in results[1]]
    with pytest.raises(InputError, match="dense first stage"):
        Index.build(items, scorer=scorer, first_stage=BM25(), queries=train, options=options)


@pytest.mark.parametrize(
    ("n_items", "plan", "constant"),
    [
        (5, PerQuery(3, 2), None),
        (40, PerQuery(6, 6), 0.0),
        (40, PerQuery(6, 6), 3.0),
        (40, PerQuery(6, 6), -1e6),
        (40, PerQuery(1, 0), None),
    ],
    ids=["fewer items than factors", "zeros", "all alike", "all alike and far", "one score of a query"],
)
def test_little_to_learn_from_is_learned_from(
    make_world: Any, n_items: int, plan: PerQuery, constant: float | None
) -> None:
    world = make_world(n_queries=12, n_items=n_items)
    if constant is not None:
        world.scores = np.full_like(world.scores, constant)
    options = BuildOptions(plan=plan, factorization=MFSideInformation())
    index = Index.build(
        world.items, scorer=world.scorer, first_stage=world.dense, queries=world.queries[:10], options=options
    )
    found = index.search(world.queries[-1], k=n_items, budget=n_items)
    assert [hit.score for hit in found] == sorted(world.scores[-1], reverse=True)


def test_what_cannot_be_factorized_is_refused() -> None:
    one = Pairs(np.zeros(5, dtype=np.int64), np.arange(5))
    with pytest.raises(InputError, match="two train queries"):
        MFSideInformation().check(one, 5, has_vectors=True)
    exact, x, x_q, _ = _planted()
    with pytest.raises(InputError, match="do not fit"):
        MFSideInformation().fit(_observed(exact, 0.1), x[1:], x_q[:N_TRAIN])


@pytest.mark.parametrize(
    "settings",
    [
        {"dimensions": 0},
        {"width": 0},
        {"sweeps": -1},
        {"length": 0.0},
        {"held_out": 1.0},
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        replace(MFSideInformation(), **settings)
