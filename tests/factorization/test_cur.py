"""CUR against its formula, written out with a pseudo-inverse, and where it is exact."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crossknn import (
    AXN,
    BM25,
    CUR,
    AllItems,
    BuildOptions,
    Dense,
    FunctionScorer,
    GivenVectors,
    Index,
    PerQuery,
    ReplayScorer,
)
from crossknn.errors import InputError
from crossknn.factorization import MFTransductive
from crossknn.scores import ScoreMatrix
from crossknn.search import adacur, anncur, run_rounds

N_TRAIN, N_TEST, N_ITEMS = 12, 5, 90


def _problem(rank: int, noise: float = 0.0) -> tuple[np.ndarray, list[str], list[str], ReplayScorer]:
    rng = np.random.default_rng(rank)
    exact = rng.normal(size=(N_TRAIN + N_TEST, rank)) @ rng.normal(size=(rank, N_ITEMS)) - 5
    exact += noise * rng.normal(size=exact.shape)
    queries, items = [f"query {n}" for n in range(len(exact))], [f"item {n}" for n in range(N_ITEMS)]
    return exact, queries, items, ReplayScorer(exact, queries, items)


def _index(rank: int, noise: float = 0.0, anchors: int = N_TRAIN) -> tuple[np.ndarray, list[str], Index]:
    exact, queries, items, scorer = _problem(rank, noise)
    options = BuildOptions(plan=AllItems(anchors), factorization=CUR())
    index = Index.build(items, scorer=scorer, first_stage=BM25(), queries=queries[:N_TRAIN], options=options)
    return exact, queries[N_TRAIN:], index


@pytest.mark.parametrize("method", [adacur(rounds=2), adacur(rounds=5), anncur(), anncur(seed=3)], ids=str)
def test_cur_is_exact_where_anchors_have_the_ranks_of_all(method: AXN) -> None:
    exact, queries, index = _index(rank=6)
    for row, result in enumerate(index.search_batch(queries, k=10, budget=20, method=method)):
        # with -5 as one more dimension, 7 scores determine a query
        assert [hit.id for hit in result] == [str(i) for i in np.argsort(-exact[N_TRAIN + row])[:10]]


@pytest.mark.parametrize(("anchors", "budget", "rounds"), [(12, 20, 2), (4, 20, 2), (12, 30, 5), (7, 90, 6)])
def test_each_round_scores_what_the_formula_likes_best(anchors: int, budget: int, rounds: int) -> None:
    exact, queries, index = _index(rank=8, noise=0.5, anchors=anchors)
    r = exact[:anchors].astype(np.float32).astype(np.float64)
    progress = run_rounds(adacur(rounds), index.task(queries), budget)
    step = budget // rounds
    for row, seen in enumerate(progress.indices):
        for start in range(step, budget, step):
            known = seen[:start]
            predicted = exact[N_TRAIN + row, known] @ np.linalg.pinv(r[:, known], rcond=1e-12) @ r
            left = np.setdiff1d(np.arange(N_ITEMS), known)
            best = left[np.argsort(-predicted[left])][:step]
            assert set(seen[start : start + step]) == set(best)


def test_anncur_has_the_same_anchor_items_for_every_query_and_asks_for_no_forbidden_one() -> None:
    _, queries, index = _index(rank=3)
    allowed = np.arange(N_ITEMS) % 3 > 0
    progress = run_rounds(anncur(), index.task(queries, allowed), 12)
    assert len({tuple(row) for row in progress.indices[:, :6]}) == 1
    assert allowed[progress.indices].all()
    other = run_rounds(anncur(seed=1), index.task(queries, allowed), 12)
    assert set(other.indices[0, :6]) != set(progress.indices[0, :6])


def test_a_loaded_index_of_anchor_rows_answers_as_before(tmp_path: Path) -> None:
    _, queries, index = _index(rank=6)
    index.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", scorer=index.scorer, first_stage=BM25())
    again, before = (i.search(queries[0], k=5, budget=20, method=adacur(4)) for i in (loaded, index))
    assert [hit.id for hit in again] == [hit.id for hit in before]
    assert len(index.train_scores.values) == AllItems().n_calls(N_TRAIN, N_ITEMS) == N_TRAIN * N_ITEMS


def test_rows_with_gaps_are_no_anchors() -> None:
    exact, *_ = _problem(rank=3)
    rows, columns = np.divmod(np.arange(3 * N_ITEMS - 1), N_ITEMS)
    scores = ScoreMatrix(rows, columns, exact[rows, columns], (N_TRAIN, N_ITEMS))
    assert CUR().fit(scores).vectors.shape == (N_ITEMS, 2)
    with pytest.raises(InputError, match=f"all {N_ITEMS} items"):
        CUR().fit(ScoreMatrix(rows[1:50], columns[1:50], exact[rows, columns][1:50], (N_TRAIN, N_ITEMS)))
    with pytest.raises(InputError, match="at least one query"):
        AllItems(0)


def test_the_first_stages_query_vectors_are_used_only_in_its_own_space() -> None:
    _, queries, items, scorer = _problem(rank=3)
    vectors = {text: np.ones(4) for text in items + queries}
    for factorization, there in ((CUR(), False), (MFTransductive(), True)):
        options = BuildOptions(plan=AllItems(), factorization=factorization)
        stage = Dense(GivenVectors(vectors, name="given"))
        index = Index.build(items, scorer=scorer, first_stage=stage, queries=queries[:N_TRAIN], options=options)
        assert (index.task(queries[-1:]).query_vectors is not None) == there
        assert len(index.search(queries[-1], k=3, budget=9)) == 3


def test_a_plan_without_dense_rows_is_refused_before_a_call_is_spent() -> None:
    _, queries, items, _ = _problem(rank=3)
    calls: list[object] = []
    scorer = FunctionScorer(lambda pairs: calls.append(pairs) or [0.0] * len(pairs), name="none")
    for plan, cap in ((PerQuery(10, 10), None), (AllItems(), N_ITEMS - 1)):
        options = BuildOptions(plan=plan, factorization=CUR(), max_calls=cap)
        with pytest.raises(InputError, match="AllItems"):
            Index.build(items, scorer=scorer, first_stage=BM25(), queries=queries[:2], options=options)
    assert not calls
