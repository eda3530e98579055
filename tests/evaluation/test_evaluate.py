from pathlib import Path

import numpy as np
import pytest

from crossknn import (
    AXN,
    BM25,
    CUR,
    AllItems,
    BuildOptions,
    CachedScorer,
    Dense,
    FunctionScorer,
    GivenVectors,
    Index,
    RandomFirstStage,
    Rerank,
)
from crossknn.errors import InputError
from crossknn.evaluation import EvaluationOptions, System, evaluate
from crossknn.search import METHODS, adacur

N_QUERIES, N_ITEMS, D = 12, 80, 6


@pytest.fixture
def problem() -> tuple[Index, list[str], np.ndarray, list[int]]:
    """An index whose scorer is exactly low-rank, with a first stage that sees it through noise; and a call counter."""
    rng = np.random.default_rng(0)
    queries, items = [f"q{n}" for n in range(N_QUERIES)], [f"i{n}" for n in range(N_ITEMS)]
    u, v = rng.normal(size=(N_QUERIES, D)), rng.normal(size=(N_ITEMS, D))
    scores = u @ v.T
    calls: list[int] = []

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        calls.append(len(pairs))
        return [scores[int(q[1:]), int(i[1:])] for q, i in pairs]

    vectors = dict(zip(items + queries, np.vstack([v, u + rng.normal(size=u.shape)]), strict=True))
    index = Index.build(
        items, scorer=FunctionScorer(score, name="low-rank"), first_stage=Dense(GivenVectors(vectors, name="given"))
    )
    return index, queries, scores, calls


def test_figures_equal_a_plain_recomputation(problem, tmp_path: Path) -> None:
    index, queries, scores, calls = problem
    labels = [str(int(row.argmax())) for row in scores]
    options = EvaluationOptions(ks=(1, 5), budgets=(4, 20), methods={"rerank": Rerank(), "axn": AXN(rounds=2)})
    report = evaluate(index, queries, folder=tmp_path, labels=labels, options=options)
    assert sum(calls) == N_QUERIES * N_ITEMS  # the methods themselves ran on stored scores
    assert report.exact_task["accuracy"].mean == 1.0
    cells = {(cell.method, cell.budget): cell for cell in report.cells}
    assert set(cells[("axn", 4)].recall) == {1}  # Top-5-Recall at 4 calls means nothing
    for (name, budget), cell in cells.items():
        results = index.search_batch(queries, k=budget, budget=budget, method=options.methods[name])
        for k, interval in cell.recall.items():
            best = [set(np.argsort(-row)[:k]) for row in scores]
            found = [{int(hit.id) for hit in result} for result in results]
            assert interval.mean == pytest.approx(np.mean([len(a & b) / k for a, b in zip(best, found, strict=True)]))
        right = [result[0].id == label for result, label in zip(results, labels, strict=True)]
        assert cell.task["accuracy"].mean == pytest.approx(np.mean(right))
        left = cell.task_below_exact["accuracy"]  # brute force is always right here
        assert left.mean == pytest.approx(1 - np.mean(right))
        assert left.low == pytest.approx(1 - cell.task["accuracy"].high)
        if 5 in cell.recall:
            assert cell.origins is not None
            assert cell.origins.k == 5
            assert cell.origins.found == pytest.approx(cell.recall[5].mean)
            ranks = [
                hit.first_stage_rank
                for result, row in zip(results, scores, strict=True)
                for hit in result
                if int(hit.id) in np.argsort(-row)[:5]
            ]
            found = [sum(b.first_rank <= rank <= b.last_rank for rank in ranks) for b in cell.origins.buckets]
            assert [b.found * 5 * N_QUERIES for b in cell.origins.buckets] == pytest.approx(found)
        assert cell.gain[1].mean == pytest.approx(cell.recall[1].mean - cells[("rerank", budget)].recall[1].mean)
        assert 0 <= cell.seconds.fit < cell.seconds.total
        assert (cell.seconds.fit > 0) == (name == "axn")
    assert cells[("axn", 20)].recall[5].mean > cells[("rerank", 20)].recall[5].mean
    beyond = {name: cells[name, 20].origins.beyond(20) for name in options.methods}
    assert beyond["rerank"].found == 0 < beyond["axn"].found
    assert report.context["first_stage"] == index.first_stage.fingerprint


def test_a_second_run_pays_nothing_and_says_the_same(problem, tmp_path: Path) -> None:
    index, queries, _, calls = problem
    options = EvaluationOptions(ks=(1,), budgets=(10,))
    first = evaluate(index, queries, folder=tmp_path, options=options)
    paid = len(calls)
    second = evaluate(index, queries, folder=tmp_path, options=options)
    assert len(calls) == paid
    assert second.calls_per_second == first.calls_per_second
    assert [cell.recall for cell in second.cells] == [cell.recall for cell in first.cells]


def test_a_score_cache_says_nothing_of_the_speed(problem, tmp_path: Path) -> None:
    index, queries, _, calls = problem
    scorer = CachedScorer(index.scorer, tmp_path / "cache.db")
    cached = Index.build(index.items, scorer=scorer, first_stage=index.first_stage)
    options = EvaluationOptions(ks=(1,), budgets=(10,))
    assert evaluate(cached, queries, folder=tmp_path / "first", options=options).calls_per_second is not None
    paid = len(calls)
    assert evaluate(cached, queries, folder=tmp_path / "second", options=options).calls_per_second is None
    assert len(calls) == paid


@pytest.mark.parametrize(
    ("queries", "labels", "message"),
    [
        ([], None, "no queries"),
        (["q1", "q1"], None, "stand twice"),
        (["q1"], ["1", "2"], "1 queries, but 2 labels"),
        (["q1"], ["none"], "label 'none' is no item"),
    ],
)
def test_bad_queries_are_refused(problem, tmp_path: Path, queries, labels, message: str) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(problem[0], queries, folder=tmp_path, labels=labels)


def test_train_queries_are_refused(problem, tmp_path: Path) -> None:
    index, queries, _, _ = problem
    trained = Index.build(index.items, scorer=index.scorer, first_stage=index.first_stage, queries=queries[:3])
    with pytest.raises(InputError, match="3 of the queries are train queries"):
        evaluate(trained, queries, folder=tmp_path)


def test_systems_over_indexes_of_their_own_are_compared_in_one_run(problem, tmp_path: Path) -> None:
    index, queries, _scores, _ = problem
    train, test = queries[:6], queries[6:]
    by_name = BM25()
    dense = BuildOptions(plan=AllItems(), factorization=CUR())
    cur = Index.build(index.items, scorer=index.scorer, first_stage=by_name, queries=train, options=dense)
    methods = {"rerank": Rerank(), "adacur": System(cur, adacur(2)), "bm25": System(cur, Rerank())}
    options = EvaluationOptions(ks=(5,), budgets=(16,), methods=methods)
    report = evaluate(index, test, folder=tmp_path, options=options)
    cells = {cell.method: cell for cell in report.cells}
    assert [cell.offline_calls for cell in report.cells] == [0, 6 * N_ITEMS, 6 * N_ITEMS]
    assert cells["adacur"].recall[5].mean == 1.0  # six rows determine scores of rank six
    assert cells["bm25"].recall[5].mean < cells["rerank"].recall[5].mean
    assert report.context["offline_calls"] == {"rerank": 0, "adacur": 6 * N_ITEMS, "bm25": 6 * N_ITEMS}
    assert report.context["first_stage"]["adacur"] == by_name.fingerprint
    with pytest.raises(InputError, match="train queries of an index"):
        evaluate(index, queries, folder=tmp_path / "other", options=options)
    others = Index.build(index.items[::-1], scorer=index.scorer, first_stage=by_name)
    for system, message in (
        (System(others, Rerank()), "other items"),
        (System(_with_other_scorer(index), Rerank()), "scorer"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(index, test, folder=tmp_path / "other", options=EvaluationOptions(methods={"x": system}))


def _with_other_scorer(index: Index) -> Index:
    return Index.build(
        index.items, scorer=FunctionScorer(lambda pairs: [0.0] * len(pairs), name="o"), first_stage=BM25()
    )


def test_a_method_that_lacks_something_says_so_before_the_ground_truth_is_paid_for(problem, tmp_path: Path) -> None:
    index, queries, _, calls = problem
    by_name = Index.build(index.items, scorer=index.scorer, first_stage=BM25())
    options = EvaluationOptions(ks=(1,), budgets=(10,), methods={"rerank": Rerank(), "tour": METHODS["tour-ce"]})
    with pytest.raises(InputError, match="dense first stage"):
        evaluate(by_name, queries, folder=tmp_path, options=options)
    assert not calls


def test_unless_others_are_named_those_that_can_search_the_index_are_compared(problem, tmp_path: Path) -> None:
    index, queries, *_ = problem
    options = EvaluationOptions(ks=(1,), budgets=(10,))
    over = {
        "nothing learned": (index, ["rerank", "axn-paper", "axn"]),
        "a learned prior": (index.learn(queries[6:]), ["rerank", "axn-paper", "axn", "bayes-ucb"]),
        "no vectors": (Index.build(index.items, scorer=index.scorer, first_stage=RandomFirstStage()), ["rerank"]),
    }
    for name, (searched, methods) in over.items():
        report = evaluate(searched, queries[:6], folder=tmp_path / name, options=options)
        assert [cell.method for cell in report.cells] == methods
    with pytest.raises(InputError, match="'bayes-ucb' is to be compared"):
        evaluate(index, queries, folder=tmp_path, options=EvaluationOptions(pairs=[("bayes-ucb", "axn")]))
