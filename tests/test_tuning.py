"""An index that finds out how it is searched best, and remembers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import (
    AXN,
    BayesianRidge,
    BuildOptions,
    FunctionScorer,
    Index,
    MFTransductive,
    PerQuery,
    RandomFirstStage,
    Rerank,
)
from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.factorization import MFSideInformation
from crossknn.search import METHODS, Calibration, method_named
from crossknn.search.rounds import run_rounds
from crossknn.tuning import _choice, candidates


@pytest.fixture
def index(make_world: Any) -> tuple[Index, Any]:
    world = make_world(n_queries=40)
    options = BuildOptions(plan=PerQuery(6, 6), factorization=MFTransductive())
    index = Index.build(
        world.items, scorer=world.scorer, first_stage=world.dense, queries=world.queries[:10], options=options
    )
    return index, world


def test_the_best_for_a_budget_is_chosen_and_kept(index: tuple[Index, Any], tmp_path: Path) -> None:
    built, world = index
    said: list[tuple[int, int]] = []
    tuning = built.tune(world.queries, k=3, budget=12, progress=lambda done, total: said.append((done, total)))
    assert tuning.queries == 30  # the train queries are left out
    assert said[-1] == (len(said), len(said))
    by_recall = {trial.method: trial.recall for trial in tuning.trials}
    assert list(by_recall) == candidates(built.item_model, has_query_vectors=True)
    assert max(by_recall.values()) - by_recall[tuning.method] < 0.05
    assert {trial.budget for trial in tuning.trials} == {tuning.budget} == {12}
    # 36 of 40 items are scored by the deepest trial, so the pool is all but exact
    task = built.task(world.queries[10:])
    for name, recall in by_recall.items():
        scores = run_rounds(method_named(name), task, 12).scores
        edges = -np.sort(-world.scores[10:], axis=1)[:, 2:3]
        exact = (np.minimum((scores >= edges).sum(axis=1), 3) / 3).mean()
        assert recall == pytest.approx(exact, abs=0.02)
    assert tuning.expected_recall <= max(by_recall.values()) + 1e-12
    assert 30 * 36 <= tuning.calls <= 30 * 40
    assert built.default_method() == method_named(tuning.method)
    assert built.search(world.queries[-1], k=3).calls == 12
    assert built.search(world.queries[-1], k=20).calls == 20  # hits that were not tuned for are found all the same
    assert (built.default_budget(20), built.default_budget(3, 0.9)) == (20, 500)
    built.save(tmp_path)
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    assert loaded.tuning == tuning
    assert loaded.search(world.queries[-1], k=3)[:] == built.search(world.queries[-1], k=3)[:]
    assert loaded.search(world.queries[-1], k=3, budget=20, method=Rerank()).calls == 20


def test_items_that_tie_with_the_last_hit_stand_in_for_none_that_was_missed() -> None:
    rng = np.random.default_rng(0)
    items = [f"item {n}" for n in range(200)]
    queries = [f"query {n}" for n in range(70)]  # more than are searched together
    best = {query: set(rng.choice(items, 3, replace=False)) for query in queries}
    scorer = FunctionScorer(lambda pairs: [1.0 if item in best[query] else 0.0 for query, item in pairs], name="ties")
    index = Index.build(items, scorer=scorer, first_stage=RandomFirstStage())
    tuning = index.tune(queries, k=10, budget=20, methods=["rerank"])
    pool = np.mean([sum(hit.score for hit in found) for found in index.search_batch(queries, k=60, budget=60)])
    found = np.mean([sum(hit.score for hit in found) for found in index.search_batch(queries, k=20, budget=20)])
    assert pool > found
    assert tuning.trials[0].recall == pytest.approx((10 - (pool - found)) / 10)


def test_what_cannot_be_compared_is_said_before_anything_is_paid(index: tuple[Index, Any]) -> None:
    _, world = index
    without = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    before = len(world.calls)
    for methods, message in (
        (["rerank", "axn-papr"], "no method 'axn-papr'"),
        (["rerank", "axn"], "axn cannot be compared: this index has no item vectors"),
        ("axn", "must be a list of names, got one text, 'axn'"),
    ):
        with pytest.raises(InputError, match=message):
            without.tune(world.queries, k=3, budget=12, methods=methods)
    assert len(world.calls) == before


@pytest.mark.parametrize("constant", [0.0, 3.0])
@pytest.mark.parametrize("taught", [False, True])
def test_scores_that_are_all_as_expected_spoil_nothing(make_world: Any, constant: float, taught: bool) -> None:
    world = make_world(n_queries=20)
    world.scores = np.full_like(world.scores, constant)
    options = BuildOptions(plan=PerQuery(6, 6), factorization=MFTransductive())
    train = world.queries[:8] if taught else ()
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense, queries=train, options=options)
    asked = world.queries[8:]
    assert all(
        0 <= found.expected_recall <= 1 for found in index.search_batch(asked, k=3, budget=30, target_recall=0.9)
    )
    shared = index.search_batch(asked, k=3, budget=20, share_budget=True)
    assert all(0 <= found.expected_recall <= 1 for found in shared)
    tuning = index.tune(asked, k=3, budget=20, methods=["axn"], exact_queries=3)
    assert tuning.calibration is not None
    assert np.isfinite([tuning.calibration.scale, tuning.calibration.shift]).all()
    assert tuning.calls == 3 * len(index) + 9 * len(index)  # three times the budget are all items


def test_a_target_is_reached_with_the_fewest_calls(index: tuple[Index, Any]) -> None:
    built, world = index
    methods = ["rerank", "axn"]
    tuning = built.tune(world.queries[10:], k=2, budget=36, target_recall=0.5, methods=methods)
    enough = [trial for trial in tuning.trials if trial.recall >= 0.5]
    assert {trial.budget for trial in tuning.trials} == {25, 36}
    assert tuning.budget == min(trial.budget for trial in enough)
    with pytest.raises(InputError, match=r"no method reaches a recall of 0\.99999 with 2 calls; the best is 0\."):
        built.tune(world.queries[10:], k=2, budget=2, target_recall=0.99999, methods=methods)
    assert built.tuning == tuning  # what failed changes nothing


def test_more_hits_than_items_are_all_the_items(make_world: Any) -> None:
    world = make_world(n_queries=12, n_items=5)
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    for target, budget in ((None, 10), (0.9, 10)):
        tuning = index.tune(world.queries, k=10, budget=budget, target_recall=target, methods=["axn"])
        assert (tuning.k, tuning.expected_recall) == (10, 1.0)
        assert index.search(world.queries[0], k=10, target_recall=0.9).expected_recall == 1.0


def test_what_was_tuned_holds_for_that_index_and_method_alone(index: tuple[Index, Any]) -> None:
    built, world = index
    built.tune(world.queries, k=3, budget=12, methods=["axn"])
    assert built.tuning is not None
    assert built.learn(world.queries[:5], BuildOptions(plan=PerQuery(6, 6))).tuning is None
    assert built.tuning is not None
    other = AXN(solver=BayesianRidge(0.1, np.ones(6), 10.0))
    assert other != AXN()
    assert other == AXN(solver=BayesianRidge(0.1, np.ones(6), 10.0))
    asked: dict[str, Any] = {"k": 3, "budget": 20, "target_recall": 0.9, "method": other}
    found = built.search(world.queries[0], **asked)
    built.tuning = None
    assert found.expected_recall == built.search(world.queries[0], **asked).expected_recall


def test_a_target_that_the_tuned_method_cannot_tell_of_is_searched_to_by_one_that_can(index: tuple[Index, Any]) -> None:
    built, world = index
    built.tune(world.queries, k=3, budget=12, methods=["rerank"])
    asked: dict[str, Any] = {"k": 3, "budget": 30, "target_recall": 0.8}
    found, named = built.search(world.queries[0], **asked), built.search(world.queries[0], **asked, method="axn")
    assert (found.hits, found.calls, found.expected_recall) == (named.hits, named.calls, named.expected_recall)
    with pytest.raises(InputError, match="how sure it is"):
        built.search(world.queries[0], **asked, method="rerank")


@pytest.mark.parametrize(
    ("ahead", "target", "chosen"),
    [
        ([0.1, 0.0, 0.0, 0.1], None, 1),  # .05 ahead, with an error of .029
        ([0.1, -0.1, 0.1, 0.0], None, 0),  # .025 with .048
        ([0.0, 0.0, 0.0, 0.0], None, 0),
        ([0.1, -0.1, 0.1, 0.0], 0.66, 1),  # the first does not reach it
        ([0.1, 0.0, 0.0, 0.1], 0.8, 3),  # nor does any with so few calls
        ([0.1, 0.0, 0.0, 0.1], 0.95, None),
    ],
)
def test_one_is_preferred_where_it_is_ahead_by_more_than_a_standard_error(
    ahead: list[float], target: float | None, chosen: int | None
) -> None:
    plan = [("a", 10), ("b", 10), ("c", 10), ("b", 20)]
    first = np.array([0.5, 0.6, 0.7, 0.8])
    reached = np.vstack([first, first + ahead, first + ahead, first + 0.2])[: 4 if target else 3]
    assert _choice(plan, reached, target) == chosen


def test_choosing_does_not_flatter(make_world: Any) -> None:
    """On scores that are pure noise no method is better than another; the best of them looks so by luck."""
    luck = []
    methods = ["rerank", "rerank/vectors", *(f"{name}-r{r}" for name in ("axn", "axn-paper") for r in (2, 3, 4))]
    for seed in range(20):
        world = make_world(n_queries=40, n_items=30, seed=seed)
        world.scores = np.random.default_rng(100 + seed).normal(size=world.scores.shape)
        tuning = Index.build(world.items, scorer=world.scorer, first_stage=world.dense).tune(
            world.queries, k=1, budget=10, methods=methods
        )
        luck.append((tuning.expected_recall, max(trial.recall for trial in tuning.trials)))
    expected, best = np.mean(luck, axis=0)
    assert best > 0.4  # 10 of 30 items: a third of the best are found by chance
    assert expected == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"queries": []}, "there are 0"),
        ({"queries": ["query cat 0", "query dog 1", "query fish 11"]}, "there are 1"),
        ({"budget": 2}, "budget is 2, but k=3"),
        ({"target_recall": 1.0}, "between 0 and 1"),
        ({"methods": ["magic"]}, "no method 'magic'"),
        ({"methods": ["rerank-r5"]}, "no rounds"),
        ({"methods": ["Axn?"]}, "no search method"),
    ],
)
def test_what_cannot_be_tuned_is_refused(index: tuple[Index, Any], asked: dict[str, Any], message: str) -> None:
    built, world = index
    with pytest.raises(InputError, match=message):
        built.tune(**{"queries": world.queries[20:], "k": 3, "budget": 12} | asked)
    assert built.tuning is None


def test_every_candidate_has_a_name_and_a_learned_prior_is_used(make_world: Any) -> None:
    world = make_world(n_queries=30)
    options = BuildOptions(plan=PerQuery(8, 8), factorization=MFSideInformation(dimensions=4))
    index = Index.build(
        world.items, scorer=world.scorer, first_stage=world.dense, queries=world.queries[:20], options=options
    )
    assert index.default_method() == METHODS["bayes-ucb"]
    names = candidates(index.item_model, has_query_vectors=True)
    assert names[:2] == ["bayes-ucb", "bayes"]
    assert len({str(method_named(name)) for name in names}) == len(names)
    assert candidates(None, has_query_vectors=True) == ["rerank"]
    assert method_named("axn-r5/vectors") == AXN(5, first_round="item vectors")


def test_a_target_after_tuning_is_reached_by_the_mean_and_told_truly(make_world: Any, tmp_path: Path) -> None:
    world = make_world(n_queries=120, n_items=400, dimensions=8)
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    index.tune(world.queries[:60], k=5, budget=150, methods=["axn"])
    assert index.tuning is not None
    assert index.tuning.calibration is not None
    edges = -np.sort(-world.scores, axis=1)[:, 4:5]

    def true(results: Any) -> float:
        rows = [np.array([hit.score for hit in result]) for result in results]
        return float(np.mean([(row >= edges[60 + n]).mean() for n, row in enumerate(rows)]))

    found = index.search_batch(world.queries[60:], k=5, budget=150, target_recall=0.8)
    told = float(np.mean([result.expected_recall for result in found]))
    assert told == pytest.approx(true(found), abs=0.05)
    assert true(found) >= 0.75
    assert np.mean([result.calls for result in found]) < 140
    index.save(tmp_path)
    loaded = Index.load(tmp_path, scorer=world.scorer, first_stage=world.dense)
    assert loaded.tuning == index.tuning
    # another k or method is not what was calibrated
    index.tuning = None
    plain = index.search_batch(world.queries[60:], k=4, budget=150, target_recall=0.8)
    again = loaded.search_batch(world.queries[60:], k=4, budget=150, target_recall=0.8, method="axn")
    assert [r.expected_recall for r in again] == [r.expected_recall for r in plain]


def test_dense_rows_calibrate_against_the_exact_top_k(make_world: Any) -> None:
    """Scores that nothing tells of: a trial three times as deep has found no more than its share either."""
    world = make_world(n_queries=60, n_items=1000)
    world.scores = np.random.default_rng(0).normal(size=world.scores.shape)
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    told = []
    for exact in (0, 20):
        tuning = index.tune(world.queries[:40], k=20, budget=40, methods=["axn"], exact_queries=exact)
        assert tuning.calls >= 40 * 120 + exact * (1000 - 120)
        found = index.search_batch(world.queries[40:], k=20, budget=40, target_recall=0.999)
        told.append(np.mean([result.expected_recall for result in found]))
    edges = -np.sort(-world.scores[40:], axis=1)[:, 19]
    true = np.mean([np.mean([hit.score >= edge for hit in hits]) for hits, edge in zip(found, edges, strict=True)])
    assert told[1] == pytest.approx(true, abs=0.02)
    assert told[0] > true + 0.15
    unsure = index.tune(world.queries[:40], k=20, budget=40, methods=["rerank"], exact_queries=20)
    assert unsure.calls == 40 * 120  # nothing to calibrate, so no dense row is bought
    with pytest.raises(InputError, match="between 0 and the 40 queries, got 41"):
        index.tune(world.queries[:40], k=20, budget=40, exact_queries=41)


@pytest.mark.parametrize(("k", "n_rounds", "sharp"), [(1, 20, 3.0), (10, 5, 0.2), (100, 1, -1.0)])
def test_calibration_is_the_likeliest_given_its_prior(k: int, n_rounds: int, sharp: float) -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(k)
    expected = np.sort(rng.random((30, n_rounds)), axis=1)
    expected[0] = 1.0
    odds = (expected / np.maximum(1 - expected, 1e-9)) ** sharp
    reached = np.clip(odds / (1 + odds) + rng.normal(0, 0.1, expected.shape), 0, 1)

    def loss(at: FloatArray) -> float:
        inner = np.clip(expected, 1e-3, 1 - 1e-3)
        told = np.clip(1 / (1 + np.exp(-at[0] * np.log(inner / (1 - inner)) - at[1])), 1e-12, 1 - 1e-12)
        each = -(reached * np.log(told) + (1 - reached) * np.log(1 - told)).mean(axis=1)
        return float(k**0.5 * each.sum() + (at[0] - 1) ** 2 / 0.18 + at[1] ** 2 / 2)

    best = minimize(loss, [1.0, 0.0], tol=1e-12).x
    fitted = Calibration.fitted(expected, reached, k)
    assert (fitted.scale, fitted.shift) == pytest.approx((max(best[0], 0), best[1]), abs=1e-4)
    told = fitted(np.linspace(0, 1, 50))
    assert (np.diff(told) >= 0).all()
    assert ((told >= 0) & (told <= 1)).all()


def test_a_few_queries_hardly_move_what_is_expected_and_many_do() -> None:
    expected, reached = np.tile([0.5, 0.8, 0.9], (2, 1)), np.ones((2, 3))
    told = [
        Calibration.fitted(np.tile(expected, (n, 1)), np.tile(reached, (n, 1)), 1)(np.array(0.9)) for n in (1, 15, 500)
    ]
    assert 0.9 < told[0] < 0.95 < told[1] < 0.99 < told[2]
    assert Calibration(1.0, 0.0)(np.array([0.2, 0.9])) == pytest.approx([0.2, 0.9])
