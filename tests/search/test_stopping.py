"""What the search believes of unseen items, and whether it stops when it has found enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import AXN, BayesianRidge, MinNorm, ReplayScorer, Rerank
from crossknn.errors import InputError
from crossknn.factorization import ItemModel, Normalisation
from crossknn.search import (
    Calibration,
    Progress,
    RecallTarget,
    Rounds,
    SearchMethod,
    Task,
    expected_recall,
    run,
    run_rounds,
)
from crossknn.search.stopping import Belief, _poisson_cdf, _tail, found_share

NOISE = 6.0
KNOWS = AXN(rounds=4, solver=BayesianRidge(noise=NOISE, intercept_variance=2.0), first_round="item vectors")


@pytest.mark.parametrize(
    "covariance", [0.7, np.linspace(0.1, 2, 5), np.eye(5) + 0.3], ids=["number", "diagonal", "dense"]
)
@pytest.mark.parametrize("intercept_variance", [0.0, 2.5])
@pytest.mark.parametrize("n_seen", [1, 5, 30])
def test_variances_are_those_of_the_conditioned_gaussian(
    covariance: Any, intercept_variance: float, n_seen: int
) -> None:
    rng = np.random.default_rng(n_seen)
    vectors, scores, noise = rng.normal(size=(40, 5)), rng.normal(size=40), 0.3
    dense = covariance * np.eye(5) if np.ndim(covariance) < 2 else covariance
    joint = vectors @ dense @ vectors.T + intercept_variance + noise * np.eye(40)
    seen, rest = slice(0, n_seen), slice(n_seen, 40)
    gain = joint[rest, seen] @ np.linalg.inv(joint[seen, seen])
    solver = BayesianRidge(noise, covariance, intercept_variance)
    posterior = solver.posterior(vectors[seen], scores[seen])
    expected = np.diag(joint[rest, rest] - gain @ joint[seen, rest])
    np.testing.assert_allclose(posterior.variances(vectors[rest]), expected, rtol=1e-8)
    np.testing.assert_allclose(vectors[rest] @ posterior.query.vector + posterior.query.intercept, gain @ scores[seen])
    np.testing.assert_allclose(solver.prior_variances(vectors), np.diag(joint))
    assert posterior.surprise == pytest.approx(scores[seen] @ np.linalg.solve(joint[seen, seen], scores[seen]))


@given(seed=st.integers(0, 10_000), n=st.integers(1, 30), d=st.integers(1, 6), noise=st.sampled_from([1e-9, 1e-3, 1.0]))
def test_a_variance_is_never_below_the_noise_nor_above_the_prior(seed: int, n: int, d: int, noise: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.repeat(rng.normal(size=(n, d)) * 100, 2, axis=0)  # every item twice
    solver = BayesianRidge(noise, intercept_variance=1.0)
    variances = solver.posterior(vectors[::2], rng.normal(size=n)).variances(vectors)
    assert (variances >= noise).all()
    assert (variances <= solver.prior_variances(vectors) * (1 + 1e-12)).all()


def _drawn(n_queries: int, n_items: int, d: int, seed: int) -> tuple[Task, np.ndarray]:
    """Queries drawn from the very prior that ``KNOWS`` believes in, with their scores and the mean expected of them."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(n_items, d))
    model = ItemModel(vectors, rng.normal(size=n_items), Normalisation(0.5, -3.0))
    means = rng.normal(size=(n_queries, d))
    weights = means + rng.normal(size=means.shape)
    constant, noise = (
        math.sqrt(2) * rng.normal(size=(n_queries, 1)),
        math.sqrt(NOISE) * rng.normal(size=(n_queries, n_items)),
    )
    scores = model.normalisation.invert(weights @ vectors.T + model.biases + constant + noise)
    first = rng.normal(size=(n_queries, n_items))
    queries, items = ([str(n) for n in range(size)] for size in (n_queries, n_items))
    scorer = ReplayScorer(scores, queries, items).prepare(items)
    return Task(queries, scorer, first, model, means), scores


def test_intervals_cover_what_they_say_on_functions_of_the_prior() -> None:
    task, scores = _drawn(60, 400, 8, seed=3)
    progress = run_rounds(replace(KNOWS, first_round="random"), task, 30)
    inside = []
    for row, belief in enumerate(KNOWS.beliefs(task, progress, 400)):
        z = (scores[row, belief.items] - belief.means) / belief.deviations
        inside.append(np.abs(z) < 1.6449)
    assert 0.88 <= np.concatenate(inside).mean() <= 0.92


def test_what_was_expected_of_an_item_scored_is_what_was_believed_before() -> None:
    task, _ = _drawn(3, 60, 4, seed=8)
    progress = run_rounds(KNOWS, task, 20)
    after = list(KNOWS.beliefs(task, progress, 60))
    for n in (5, 12, 19):
        then = replace(progress, indices=progress.indices[:, :n], scores=progress.scores[:, :n], memory=[])
        then.unseen = np.ones_like(progress.unseen)
        np.put_along_axis(then.unseen, then.indices, False, axis=1)
        for row, belief in enumerate(KNOWS.beliefs(task, then, 60)):
            at = int(np.flatnonzero(belief.items == progress.indices[row, n])[0])
            assert after[row].means_before[n] == pytest.approx(belief.means[at])
            assert after[row].deviations_before[n] == pytest.approx(belief.deviations[at])


def test_where_more_items_come_up_than_was_expected_more_are_expected_to() -> None:
    task, _ = _drawn(40, 300, 8, seed=4)
    progress = run_rounds(KNOWS, task, 40)
    known = [progress.rows(np.array([row])) for row in range(40)]
    plain = [found_share(belief, replace(one, rounds=[]), 10) for belief, one in _believed(task, progress, known)]
    told = [found_share(belief, one, 10) for belief, one in _believed(task, progress, known)]
    assert np.mean(told) == pytest.approx(np.mean(plain), abs=0.03)  # drawn from the prior, so all comes as expected
    (belief, one) = next(_believed(task, progress, known))
    shares = [
        found_share(replace(belief, means_before=belief.means_before + shift), one, 10) for shift in (-3.0, 0.0, 3.0)
    ]
    assert shares == sorted(shares)
    assert shares[0] < shares[2]


def _believed(task: Task, progress: Progress, known: list[Progress]) -> Iterator[tuple[Belief, Progress]]:
    return zip(KNOWS.beliefs(task, progress, 300), known, strict=True)


@pytest.mark.parametrize("k", [1, 10, 20])
@pytest.mark.parametrize("budget", [25, 60])
def test_the_expected_recall_is_the_recall_on_functions_of_the_prior(k: int, budget: int) -> None:
    task, scores = _drawn(150, 500, 12, seed=5)
    progress = run_rounds(KNOWS, task, budget)
    expected = expected_recall(KNOWS, task, progress, k)
    edges = -np.sort(-scores, axis=1)[:, k - 1 : k]
    true = (progress.scores >= edges).sum(axis=1) / k
    assert 0.3 < true.mean() < 0.995
    assert expected.mean() == pytest.approx(true.mean(), abs=0.03)
    assert np.all((expected >= 0) & (expected <= 1))


@pytest.mark.parametrize("target", [0.5, 0.9, 0.99])
def test_every_query_stops_when_it_has_found_enough_whatever_its_company(one_query: Any, target: float) -> None:
    task, scores = _drawn(12, 300, 8, seed=7)
    stop = RecallTarget(KNOWS, target, k=5)
    search = Rounds(KNOWS, task, 200, stop=stop)
    run(search, task)
    together = search.progress()
    spent = [progress.indices.shape[1] for progress in together]
    assert len(set(spent)) > 1
    for row, progress in enumerate(together):
        assert progress.expected_recall is not None
        assert progress.expected_recall[0] >= target or spent[row] == 200
        np.testing.assert_array_equal(progress.scores[0], scores[row, progress.indices[0]])
        alone = Rounds(KNOWS, one_query(task, row), 200, stop=stop)
        run(alone, one_query(task, row))
        np.testing.assert_array_equal(alone.progress()[0].indices, progress.indices)
        np.testing.assert_allclose(alone.progress()[0].expected_recall, progress.expected_recall)
        before = run_rounds(replace(KNOWS, rounds=8), one_query(task, row), 200).indices[:, : spent[row]]
        np.testing.assert_array_equal(before, progress.indices)  # rounds of 25, as without a target


def test_all_items_seen_is_a_recall_of_one(make_task: Any) -> None:
    task, _ = make_task(3, 9, 4, allowed=np.arange(9) < 6)
    progress = run_rounds(KNOWS, task, 9)
    np.testing.assert_array_equal(expected_recall(KNOWS, task, progress, 20), 1.0)
    some = run_rounds(KNOWS, task, 3)
    assert (expected_recall(KNOWS, task, some, 6) <= 0.5).all()


@pytest.mark.parametrize("calibration", [None, Calibration(0.3, 1.5)], ids=["plain", "calibrated"])
def test_a_search_to_a_target_has_its_k_hits_and_tells_no_more_than_they_can_hold(
    calibration: Calibration | None,
) -> None:
    task, _ = _drawn(12, 300, 8, seed=7)
    stop = RecallTarget(KNOWS, 0.5, 20, calibration)
    search = Rounds(replace(KNOWS, rounds=20), task, 100, stop=stop)  # five items a round
    told = []
    while not search.done:
        rows, columns = search.ask()
        search.tell(task.scorer.score(task.queries, rows, columns))
        told.append([(p.indices.shape[1], p.expected_recall[0]) for p in search.progress()])  # type: ignore[index]
    assert all(calls >= 20 for calls, _ in told[-1])
    assert all(recall <= calls / 20 for states in told for calls, recall in states)
    assert any(calls < 100 for calls, _ in told[-1])


def test_a_prior_alone_stops_no_search() -> None:
    task, _ = _drawn(12, 300, 8, seed=7)
    search = Rounds(replace(KNOWS, rounds=20), task, 100, stop=RecallTarget(KNOWS, 0.01, 1))  # five items a round
    run(search, task)
    assert {progress.indices.shape[1] for progress in search.progress()} == {25}


def test_a_calibrated_search_that_has_seen_all_is_sure(make_task: Any) -> None:
    task, _ = make_task(3, 9, 4)
    search = Rounds(KNOWS, task, 9, stop=RecallTarget(KNOWS, 0.99, 3, Calibration(0.6, 0.0)))
    run(search, task)
    assert [p.expected_recall for p in search.progress()] == [1.0] * 3


def test_one_or_two_scores_tell_nothing_where_the_prior_has_no_scale() -> None:
    task, _ = _drawn(5, 100, 4, seed=1)
    for n_scored in (1, 2):
        progress = run_rounds(KNOWS, task, n_scored)
        assert all(np.isinf(belief.deviations).all() for belief in KNOWS.beliefs(task, progress, 50))
        assert (expected_recall(KNOWS, task, progress, 1) < 1e-9).all()


def test_time_leaves_the_hits_that_are_wanted(make_task: Any) -> None:
    task, _ = make_task(3, 60, 4)
    method = replace(KNOWS, rounds=20)
    search = Rounds(method, task, 60, stop=RecallTarget(method, 0.99, 10), max_seconds=1e-9, at_least=10)
    run(search, task)
    assert [progress.indices.shape[1] for progress in search.progress()] == [12] * 3  # rounds of three


def test_time_ends_a_search_between_rounds(make_task: Any) -> None:
    task, _ = make_task(3, 40, 4)
    search = Rounds(AXN(5), task, 20, max_seconds=1e-9)
    run(search, task)
    assert [progress.indices.shape for progress in search.progress()] == [(1, 4)] * 3
    unhurried = Rounds(AXN(5), task, 20, max_seconds=1e9)
    run(unhurried, task)
    assert [progress.indices.shape for progress in unhurried.progress()] == [(1, 20)] * 3


@pytest.mark.parametrize("method", [Rerank(), AXN(solver=MinNorm()), AXN(mixing=0.5)], ids=str)
def test_a_method_that_cannot_tell_is_refused(make_task: Any, method: SearchMethod) -> None:
    task, _ = make_task(1, 20, 4)
    with pytest.raises(InputError, match="how sure it is"):  # before a call is spent
        Rounds(method, task, 10, stop=RecallTarget(method, 0.9, 3))


@pytest.mark.parametrize(("recall", "k"), [(0.0, 1), (1.0, 1), (95, 1), (0.9, 0)])
def test_targets_that_make_no_sense_are_refused(recall: float, k: int) -> None:
    with pytest.raises(InputError, match="must"):
        RecallTarget(AXN(), recall, k)


@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
def test_of_many_hits_a_hundred_tell_enough(spread: float) -> None:
    rng = np.random.default_rng(3)
    k, scores = 700, rng.normal(3, 1, size=900)
    belief = Belief(np.arange(5000), rng.normal(0, 1, size=5000), np.full(5000, spread), scores, np.ones(900))
    progress = Progress(np.arange(900)[None], scores[None], scores[None], np.ones((1, 6000), dtype=bool))
    best = -np.sort(-scores)[:k]
    above = _tail((best[:, None] - belief.means) / belief.deviations).sum(axis=1)
    every = _poisson_cdf(k - 1 - np.arange(k), above).mean()
    assert found_share(belief, progress, k) == pytest.approx(every, abs=2e-3)


def test_tails_are_those_of_the_textbooks() -> None:
    z = np.linspace(-6, 6, 121)
    np.testing.assert_allclose(_tail(z), [0.5 * math.erfc(value / math.sqrt(2)) for value in z], atol=1.5e-7)
    rates = np.array([0.0, 1e-9, 0.3, 4.0, 90.0, 5000.0])
    for most in (0, 3, 99):
        direct = [
            sum(math.exp(c * math.log(r) - r - math.lgamma(c + 1)) if r else c == 0 for c in range(most + 1))
            for r in rates
        ]
        np.testing.assert_allclose(_poisson_cdf(np.full(6, most), rates), direct, atol=1e-12)
