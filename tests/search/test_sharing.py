"""One budget for many queries: where the calls go, that none is lost, and that more is found."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from crossknn import AXN, BayesianRidge, ReplayScorer, Rerank
from crossknn.errors import InputError, ScorerError
from crossknn.factorization import ItemModel
from crossknn.search import Progress, RecallTarget, Rounds, Task, run_rounds, run_sharing

KNOWS = AXN(rounds=4, solver=BayesianRidge(noise=1.0, intercept_variance=2.0), first_round="item vectors")
N_ITEMS = 400


def drawn(n_queries: int, allowed: np.ndarray | None = None) -> tuple[Task, np.ndarray]:
    """Queries of which every second is all but noise to the search: many calls find what a few do of the others."""
    rng = np.random.default_rng(1)
    vectors, means = rng.normal(size=(N_ITEMS, 12)), rng.normal(size=(n_queries, 12))
    noise = np.where(np.arange(n_queries) % 2, 6.0, 0.3)[:, None] * rng.normal(size=(n_queries, N_ITEMS))
    scores = (means + rng.normal(size=means.shape)) @ vectors.T + noise
    queries, items = ([str(n) for n in range(size)] for size in (n_queries, N_ITEMS))
    scorer = ReplayScorer(scores, queries, items).prepare(items)
    first = rng.normal(size=scores.shape)
    return Task(queries, scorer, first, ItemModel(vectors, np.zeros(N_ITEMS)), means, allowed), scores


def recall(known: list[Progress], scores: np.ndarray, k: int) -> float:
    edges = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    return float(np.mean([(p.scores[0] >= edge).sum() / k for p, edge in zip(known, edges, strict=True)]))


@pytest.mark.parametrize(("k", "budget"), [(1, 20), (10, 40), (20, 20), (10, 11), (25, 26), (33, 35)])
@pytest.mark.parametrize("masked", [False, True])
def test_the_calls_are_those_of_all_queries_and_each_has_its_hits(k: int, budget: int, masked: bool) -> None:
    allowed = np.arange(N_ITEMS) % 3 != 0 if masked else None
    task, scores = drawn(13, allowed)
    known = run_sharing(KNOWS, task, budget, RecallTarget(KNOWS, None, k))
    spent = [p.indices.shape[1] for p in known]
    assert sum(spent) == 13 * budget
    assert min(spent) >= k
    assert max(spent) <= 5 * budget
    for row, progress in enumerate(known):
        (seen,) = progress.indices
        assert len(np.unique(seen)) == len(seen)
        assert allowed is None or allowed[seen].all()
        np.testing.assert_array_equal(progress.scores[0], scores[row, seen])
        alone, own = Rounds(KNOWS, task.rows(np.array([row])), 5 * budget), task.rows(np.array([row]))
        for cost in progress.rounds:
            alone.tell(own.scorer.score(own.queries, *alone.ask(cost.calls)))
        np.testing.assert_array_equal(alone.progress()[0].indices[0], seen)


def test_more_is_found_than_with_as_many_calls_for_each_and_hard_queries_have_more() -> None:
    task, scores = drawn(24)
    known = run_sharing(KNOWS, task, 80, RecallTarget(KNOWS, None, 10))
    plain = run_rounds(KNOWS, task, 80)
    same = [plain.rows(np.array([row])) for row in range(24)]
    assert 1 - recall(known, scores, 10) < 0.8 * (1 - recall(same, scores, 10))
    spent = np.array([p.indices.shape[1] for p in known])
    assert spent[1::2].mean() > 2 * spent[::2].mean()


def test_with_a_target_what_is_not_needed_is_not_spent() -> None:
    task, _ = drawn(12)
    known = run_sharing(KNOWS, task, 60, RecallTarget(KNOWS, 0.5, 5))
    assert sum(p.indices.shape[1] for p in known) < 12 * 60
    assert all(p.expected_recall is not None and p.expected_recall[0] >= 0.5 for p in known)


def test_few_items_are_all_scored() -> None:
    task, _ = drawn(5, np.arange(N_ITEMS) < 7)
    known = run_sharing(KNOWS, task, 50, RecallTarget(KNOWS, None, 10))
    assert [sorted(p.indices[0].tolist()) for p in known] == [list(range(7))] * 5
    assert [p.expected_recall for p in known] == [np.ones(1)] * 5


def test_what_is_told_in_the_end_is_of_all_that_was_scored() -> None:
    """Though a query is looked at every 25 calls, and may stop between two looks."""
    task, _ = drawn(13)
    target = RecallTarget(KNOWS, None, 5)
    known = run_sharing(KNOWS, task, 33, target)
    told = [target.expected_recall(task.rows(np.array([row])), progress) for row, progress in enumerate(known)]
    assert [progress.expected_recall for progress in known] == told
    assert any(progress.indices.shape[1] % 25 for progress in known)


def test_what_cannot_be_shared_is_said_before_a_call_is_spent() -> None:
    task, _ = drawn(2)

    class Unused:
        def score(self, *_: object) -> np.ndarray:
            raise ScorerError("asked")

    unused = replace(task, scorer=Unused())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="budget is 5, but k=6"):
        run_sharing(KNOWS, unused, 5, RecallTarget(KNOWS, None, 6))
    with pytest.raises(InputError, match="does not know how sure it is"):
        run_sharing(Rerank(), unused, 10, RecallTarget(Rerank(), None, 6))
    with pytest.raises(ScorerError, match="asked"):
        run_sharing(KNOWS, unused, 10, RecallTarget(KNOWS, None, 6))
