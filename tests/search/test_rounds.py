"""What holds for every search method: the budget, the books, and that company changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import AXN, BayesianRidge, Rerank, Shortlist
from crossknn.errors import CrossKNNError, InputError, ScorerError
from crossknn.search import GAR, Progress, Proposal, SearchMethod, Task, TouR, anncur, run_rounds
from crossknn.search.sizes import growing_sizes, round_sizes

_methods = st.one_of(
    st.builds(Rerank, st.sampled_from(["first stage", "item vectors"])),
    st.builds(AXN, rounds=st.integers(2, 5), first_round=st.just("item vectors")),
    st.builds(Shortlist, st.sampled_from([AXN(3), Rerank("item vectors")]), size=st.integers(1, 30)),
    st.builds(AXN, rounds=st.integers(1, 12), mixing=st.sampled_from([0.0, 0.3, 1.0])),
    st.just(anncur()),
    st.builds(GAR, neighbours=st.integers(1, 5), rounds=st.integers(1, 8)),
    st.builds(TouR, loss=st.sampled_from(["ce", "mse"]), rounds=st.integers(1, 8)),
    st.builds(AXN, rounds=st.integers(1, 12), solver=st.just(BayesianRidge(0.1, 2.0, intercept_variance=1.0))),
)


@given(
    data=st.data(),
    method=_methods,
    n_queries=st.integers(1, 11),
    n_items=st.integers(1, 30),
    d=st.integers(1, 7),
    budget=st.integers(1, 40),
    kind=st.sampled_from(["noisy", "linear", "ties", "constant"]),
    learned=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_what_holds_for_every_search(
    make_task: Any,
    one_query: Any,
    data: st.DataObject,
    method: SearchMethod,
    n_queries: int,
    n_items: int,
    d: int,
    budget: int,
    kind: str,
    learned: bool,
    seed: int,
) -> None:
    mask = data.draw(st.none() | st.lists(st.booleans(), min_size=n_items, max_size=n_items))
    allowed = None if mask is None else np.array(mask)
    task, scorer = make_task(n_queries, n_items, d, seed, kind=kind, learned=learned, allowed=allowed)
    progress = run_rounds(method, task, budget)

    n_allowed = n_items if allowed is None else int(allowed.sum())
    spent = min(budget, n_allowed)
    assert progress.indices.shape == progress.scores.shape == progress.predicted.shape == (n_queries, spent)
    assert len(scorer.calls) == len(set(scorer.calls)) == n_queries * spent
    assert [cost.calls for cost in progress.rounds] == round_sizes(spent, method.rounds)
    assert progress.round_of_column().tolist() == [
        number for number, cost in enumerate(progress.rounds, start=1) for _ in range(cost.calls)
    ]
    for row in range(n_queries):
        chosen = progress.indices[row]
        assert set(scorer.calls) >= {(str(row), int(i)) for i in chosen}
        assert allowed is None or allowed[chosen].all()
        np.testing.assert_array_equal(progress.scores[row], scorer.scores[row, chosen])
        if spent == n_allowed:
            np.testing.assert_array_equal(
                np.sort(chosen), np.arange(n_items) if allowed is None else np.flatnonzero(allowed)
            )
        alone = run_rounds(method, one_query(task, row), budget)
        for part in ("indices", "scores", "predicted"):
            np.testing.assert_array_equal(getattr(alone, part)[0], getattr(progress, part)[row])


@given(budget=st.integers(0, 300), rounds=st.integers(1, 60))
def test_rounds_share_the_budget_as_evenly_as_can_be(budget: int, rounds: int) -> None:
    sizes = round_sizes(budget, rounds)
    assert sum(sizes) == budget
    assert len(sizes) == min(budget, rounds)
    assert sizes == sorted(sizes, reverse=True)
    assert not sizes or sizes[0] - sizes[-1] <= 1


@given(budget=st.integers(1, 600), rounds=st.integers(1, 60))
def test_rounds_of_who_may_stop_are_as_many_as_of_a_search_that_ends_there(budget: int, rounds: int) -> None:
    sizes = growing_sizes(budget, rounds)
    assert sum(sizes) == budget
    assert sizes[:-1] == sorted(sizes[:-1])
    assert max(sizes) <= 25
    assert sizes[0] <= max(1, -(-budget // rounds), -(-100 // rounds))
    spent = np.cumsum([0, *sizes])
    for before, size in zip(spent, sizes, strict=False):
        if size < 25 and before + size < budget:
            assert size <= max(-(-100 // rounds), 2 * before / rounds)


def test_rounds_of_who_may_stop_begin_small() -> None:
    assert growing_sizes(140, 20) == [5] * 12 + [6, 6, 7, 7, 8, 9, 10, 11, 12, 4]
    assert growing_sizes(100, 10) == [10] * 6 + [12, 14, 14]


@pytest.mark.parametrize("budget", [1, 7, 20, 50])
def test_rerank_takes_the_first_stages_best_in_its_order(make_task: Any, budget: int) -> None:
    task, _ = make_task(3, 20, 4, kind="ties")
    progress = run_rounds(Rerank(), task, budget)
    for row, scores in enumerate(task.first_stage_scores):
        expected = sorted(range(20), key=lambda n: (-scores[n], n))[:budget]
        assert progress.indices[row].tolist() == expected
    assert np.isnan(progress.predicted).all()


@dataclass(frozen=True)
class _Rogue:
    choose: Callable[[Progress, int], np.ndarray]
    rounds: int = 2

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        return Proposal(self.choose(progress, size))


@pytest.mark.parametrize(
    "choose",
    [
        lambda progress, size: np.tile(np.arange(size), (2, 1)),
        lambda progress, size: np.full((2, size), 9 - len(progress.rounds)),
        lambda progress, size: np.tile(np.arange(size + 1), (2, 1)),
        lambda progress, size: np.tile(np.arange(5, 5 + size), (2, 1)),
    ],
    ids=["seen before", "twice in a round", "more than asked for", "not allowed"],
)
def test_no_method_can_overspend_or_score_a_pair_twice(make_task: Any, choose: Any) -> None:
    task, scorer = make_task(2, 10, 3)
    task = replace(task, allowed=np.array([True] * 5 + [False] * 3 + [True] * 2))
    with pytest.raises((CrossKNNError, AssertionError)):
        run_rounds(_Rogue(choose), task, 4)
    assert len(scorer.calls) == len(set(scorer.calls)) <= 2 * 4


@pytest.mark.parametrize("budget", [0, -3])
def test_a_budget_below_one_is_refused(make_task: Any, budget: int) -> None:
    with pytest.raises(InputError, match=f"at least 1 cross-encoder call, got {budget}"):
        run_rounds(Rerank(), make_task(1, 5, 2)[0], budget)


def test_no_queries_cost_nothing(make_task: Any) -> None:
    task, scorer = make_task(0, 5, 2)
    assert run_rounds(AXN(), task, 3).indices.shape == (0, 0)
    assert not scorer.calls


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_ends_the_search(make_task: Any, bad: float) -> None:
    task, scorer = make_task(1, 10, 3)
    scorer.scores[0, int(np.argmax(task.first_stage_scores[0]))] = bad
    with pytest.raises(ScorerError, match="finite"):
        run_rounds(AXN(), task, 5)


def test_reranking_by_item_vectors_takes_what_they_like_best(make_task: Any) -> None:
    task, _ = make_task(4, 50, 5, learned=True)
    assert task.query_vectors is not None
    liking = task.query_vectors @ task.item_model.vectors.T + task.item_model.biases
    best = np.argsort(-liking, axis=1)
    np.testing.assert_array_equal(run_rounds(Rerank("item vectors"), task, 9).indices, best[:, :9])
    np.testing.assert_array_equal(run_rounds(AXN(3, first_round="item vectors"), task, 9).indices[:, :3], best[:, :3])
    for method in (Rerank("item vectors"), AXN(first_round="item vectors")):
        with pytest.raises(InputError, match="no query vectors"):
            run_rounds(method, replace(task, query_vectors=None), 9)


@pytest.mark.parametrize("budget", [6, 20])
def test_a_shortlist_is_a_filter_of_the_querys_own(make_task: Any, one_query: Any, budget: int) -> None:
    task, _ = make_task(4, 60, 5, allowed=np.arange(60) % 3 != 0)
    shortlisted = run_rounds(Shortlist(AXN(4), 20), task, budget)
    for row in range(4):
        allowed = np.flatnonzero(task.allowed)
        best = allowed[np.argsort(-task.first_stage_scores[row][allowed], kind="stable")[:20]]
        alone = one_query(task, row)
        filtered = run_rounds(AXN(4), replace(alone, allowed=np.isin(np.arange(60), best)), budget)
        np.testing.assert_array_equal(shortlisted.indices[row], filtered.indices[0])
    beyond = run_rounds(Shortlist(AXN(4), 20), task, 30)
    best = np.argsort(-np.where(task.allowed, task.first_stage_scores, -np.inf), axis=1, kind="stable")[:, :30]
    np.testing.assert_array_equal(np.sort(beyond.indices), np.sort(best))  # as far down as it must
