"""Every system of the paper in one run, on scores of exactly low rank, so that what each must find is known."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import (
    AXN,
    BM25,
    AllItems,
    CachedScorer,
    Dense,
    FunctionScorer,
    GivenVectors,
    Hybrid,
    Index,
    LateInteraction,
    PerQuery,
    Rerank,
    WithStates,
    WithVectors,
)
from crossknn.errors import InputError
from crossknn.evaluation import BenchmarkData, BenchmarkOptions, benchmark
from crossknn.evaluation.lab import Lab
from crossknn.evaluation.replay import System
from crossknn.evaluation.systems import SystemName
from crossknn.factorization import MFInductive, MFTransductive
from crossknn.search import METHODS

N_TRAIN, N_TEST, N_ITEMS, D = 10, 8, 90, 5


@pytest.fixture
def lab() -> tuple[BenchmarkData, Any, Any, list[tuple[str, str]]]:
    """Data, a scorer of rank D, a first stage that sees it through noise, and the pairs that were paid for."""
    rng = np.random.default_rng(0)
    queries, items = [f"query {n}" for n in range(N_TRAIN + N_TEST)], [f"item {n}" for n in range(N_ITEMS)]
    u, v = rng.normal(size=(len(queries), D)), rng.normal(size=(N_ITEMS, D))
    paid: list[tuple[str, str]] = []

    def score(pairs: list[tuple[str, str]]) -> list[float]:
        paid.extend(pairs)
        return [float(u[int(q.split()[1])] @ v[int(i.split()[1])]) for q, i in pairs]

    vectors = dict(zip(items + queries, np.vstack([v, u + rng.normal(size=u.shape)]), strict=True))
    data = BenchmarkData(dict(zip(items, items, strict=True)), queries[:N_TRAIN], queries[N_TRAIN:])
    return data, _Shown(score, name="low rank"), Dense(_OneToken(vectors, name="given")), paid


class _Shown(FunctionScorer):
    """A scorer that can be looked into."""

    def states(self, texts: Sequence[str]) -> Any:
        return np.random.default_rng(1).normal(size=(len(texts), 2, 3))


class _OneToken(GivenVectors):
    """A text is one token."""

    def embed_tokens(self, texts: Sequence[str]) -> list[Any]:
        return [self.embed([text]) for text in texts]


SYSTEMS = (
    "rerank",
    "rerank/bm25",
    "rerank/tfidf",
    "tour-ce",
    "tour-mse",
    "axn",
    "axn-paper",
    "axn-paper-r2/bm25",
    "axn/random",
    "rerank:mf@2",
    "axn:mf@2",
    "axn/vectors:mf@2",
    "axn/bm25:mf@2",
    "axn:mf@5",
    "axn:mf@2x4",
    "anncur:cur@5",
    "adacur:cur@5",
    "adacur/bm25:cur@5",
    "rerank/hybrid",
    "axn/hybrid",
    "bayes/hybrid:mf-side-refined@2",
    "rerank/late",
    "bayes/late:mf-side-refined@2",
    "rerank/states",
    "bayes/states:mf-side-refined@2",
    "bayes/latestates:mf-side-refined@2",
)


def test_every_system_runs_and_finds_what_it_must(lab: Any, tmp_path: Path) -> None:
    data, scorer, first_stage, paid = lab
    cached = CachedScorer(scorer, tmp_path / "scores.sqlite")
    options = BenchmarkOptions(systems=SYSTEMS, ks=(1, 10), budgets=(30, N_ITEMS))
    report = benchmark(data, cached, first_stage, folder=tmp_path, options=options)
    cells = {(cell.method, cell.budget): cell for cell in report.cells}
    assert all(cells[name, N_ITEMS].recall[10].mean == 1 for name in SYSTEMS)
    for name in ("axn", "axn-paper", "adacur:cur@5", "adacur/bm25:cur@5", "anncur:cur@5"):
        assert cells[name, 30].recall[10].mean > 0.99, name  # rank 5 is known after five items, by five dense rows
    assert cells["rerank", 30].recall[10].mean < 0.95
    assert len(paid) == len(set(paid))  # systems share what they pay for
    assert report.offline["axn:mf@2"].calls == 2 * N_ITEMS == report.offline["rerank:mf@2"].calls
    assert report.offline["adacur:cur@5"].calls == 5 * N_ITEMS
    assert report.offline["rerank"].calls == 0
    assert report.offline["rerank/states"].calls == N_ITEMS  # each is read
    assert report.offline["bayes/states:mf-side-refined@2"].calls == 2 * N_ITEMS
    assert report.offline["bayes/states:mf-side-refined@2"].items_read == N_ITEMS
    assert report.offline["axn:mf@5"].family == report.offline["axn:mf@2"].family == "axn:mf"
    assert report.offline["axn:mf@5"].train_seconds > 0
    assert (report.offline["axn:mf@2x4"].calls, report.offline["axn:mf@2x4"].family) == (2 * N_ITEMS, "axn:mf x4")
    for name in ("rerank/bm25", "anncur:cur@5", "axn/bm25:mf@2", "axn:mf@2", "bayes/states:mf-side-refined@2"):
        cost, rate = report.offline[name], report.calls_per_second
        assert rate is not None
        whole = cost.embed_seconds + cost.train_seconds + cost.reembed_seconds + (cost.calls - cost.items_read) / rate
        assert report.offline_seconds(name) == pytest.approx(whole)
        assert cost.embed_seconds > 0
    stages = report.context["first_stage"]
    assert stages["rerank/bm25"].startswith("bm25")  # no vectors, and none paid for
    assert stages["anncur:cur@5"].startswith("random")
    assert " with " in stages["axn/bm25:mf@2"]
    assert all(stages[name].startswith("hybrid") == ("/hybrid" in name) for name in SYSTEMS)
    assert all(stages[name].startswith("late") == ("/late" in name) for name in SYSTEMS)
    assert all(("states:" in stages[name]) == ("states" in name) for name in SYSTEMS)
    found = {(pair.method, pair.other, pair.budget): pair for pair in report.pairs}
    assert {pair.method: pair.other for pair in report.pairs} == {
        **dict.fromkeys(("tour-ce", "tour-mse", "axn", "axn-paper"), "rerank"),
        "axn-paper-r2/bm25": "rerank/bm25",
        **dict.fromkeys(("axn:mf@2", "axn/vectors:mf@2"), "rerank:mf@2"),
        "axn/hybrid": "rerank/hybrid",
    }
    both = [cells[name, 30].recall[10].mean for name in ("axn", "rerank")]
    pair = found["axn", "rerank", 30]
    assert pair.gain[10].mean == pytest.approx(both[0] - both[1])
    assert pair.gain[10].low <= pair.gain[10].mean <= pair.gain[10].high
    less = pair.error_reduction[10]
    assert less is not None
    assert less.mean == pytest.approx(1 - (1 - both[0]) / (1 - both[1]))
    assert found["axn", "rerank", N_ITEMS].error_reduction[10] is None  # there is no error to reduce

    n_paid = len(paid)
    again = benchmark(data, cached, first_stage, folder=tmp_path, options=options)
    assert len(paid) == n_paid
    assert [cell.recall for cell in again.cells] == [cell.recall for cell in report.cells]


@pytest.mark.torch
def test_systems_that_need_torch_run_beside_the_others(lab: Any, tiny_torch: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    data, scorer, _, _ = lab
    folder = str(tiny_torch.encoder(tmp_path))
    from crossknn import SentenceTransformersEncoder

    systems = ("rerank", "axn:mf-adamw@2", "axn:mf-ind@2", "rerank:mf-ind@2", "rerank:distilled@2", "axn:distilled@2")
    systems += ("axn/distilled:mf@2", "bayes:mf-side-distilled@2x8", "axn:mf-distilled@2x8")
    options = BenchmarkOptions(
        systems=systems, ks=(1,), budgets=(20,), trainable=lambda: library.SentenceTransformer(folder, device="cpu")
    )
    first_stage = Dense(SentenceTransformersEncoder(folder, device="cpu"))
    report = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    assert [cell.method for cell in report.cells] == list(systems)
    assert {report.offline[name].calls for name in systems[1:]} == {2 * N_ITEMS}
    for name in ("axn:distilled@2", "axn/distilled:mf@2", "axn:mf-ind@2"):
        assert report.offline[name].reembed_seconds > 0
    kept = {path.name for path in (tmp_path / "checkpoints").glob("*/*")}
    learners = ("mf-ind@2", "distilled@2", "mf-side-distilled@2x8", "mf-distilled@2x8")
    assert kept == {f"{learner}.{what}" for learner in learners for what in ("pt", "seconds")}
    again = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    for name in (
        "axn:mf-ind@2",
        "axn:distilled@2",
        "bayes:mf-side-distilled@2x8",
    ):  # it was trained once, and that is what it cost
        assert again.offline[name].train_seconds == report.offline[name].train_seconds
    lab = Lab(data, scorer, first_stage, tmp_path, options, lambda what: lambda done, total: None)
    index = lab.system(SystemName.parse("axn:distilled@2")).index
    distilled, scores = index.item_model, index.train_scores
    assert distilled is not None
    assert np.abs(distilled.vectors - lab.base_vectors).max() > 1e-4
    own = index.task(index.train_queries).query_vectors[scores.query_indices]
    products = np.sum(own * distilled.vectors[scores.item_indices], axis=1)
    assert distilled.normalisation.apply(scores.values).mean() == pytest.approx(products.mean(), rel=1e-5)
    mixed = lab.system(SystemName.parse("axn/bm25:distilled@2")).index
    np.testing.assert_array_equal(mixed.item_model.vectors, distilled.vectors)
    assert mixed.first_stage.fingerprint.startswith("bm25")
    between, mf = (lab.system(SystemName.parse(name)) for name in ("axn/distilled:mf@2", "axn:mf@2"))
    np.testing.assert_array_equal(between.index.item_model.vectors, mf.index.item_model.vectors)
    task, asked = between.index.task(data.queries), index.task(data.queries)
    np.testing.assert_array_equal(task.query_vectors, mf.index.task(data.queries).query_vectors)
    np.testing.assert_allclose(task.first_stage_scores, asked.query_vectors @ distilled.vectors.T, atol=1e-6)
    for name in ("bayes:mf-side-distilled@2x8", "bayes/distilled:mf-side-distilled@2x8"):
        beside = lab.system(SystemName.parse(name)).index  # whatever ranks first, it is the same encoder
        assert beside.item_model is lab._made(SystemName.parse("bayes:mf-side-distilled@2x8"))[0].item_model
    tuned = beside.first_stage_vectors
    assert np.abs(tuned - lab.base_vectors).max() > 1e-4
    width = tuned.shape[1]
    part = beside.item_model.vectors[:, -1 - width : -1]  # the side information, at the scale of its variance
    np.testing.assert_allclose(part, tuned * (np.linalg.norm(part) / np.linalg.norm(tuned)), atol=1e-5)
    cost = between.offline, lab.system(SystemName.parse("axn:distilled@2")).offline
    assert cost[0].train_seconds > cost[1].train_seconds


@pytest.mark.torch
def test_training_that_was_stopped_counts(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    data, scorer, first_stage, _ = lab
    options = BenchmarkOptions(systems=("rerank", "axn:mf-ind@2"), ks=(1,), budgets=(20,))
    fit = MFInductive.fit

    def stopped(*_: Any) -> Any:
        time.sleep(0.3)
        raise KeyboardInterrupt

    monkeypatch.setattr(MFInductive, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    monkeypatch.setattr(MFInductive, "fit", fit)
    report = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    assert report.offline["axn:mf-ind@2"].train_seconds > 0.3


def test_every_fit_of_a_second_pass_counts(lab: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, scorer, first_stage, _ = lab
    fit = MFTransductive.fit

    def slow(*arguments: Any) -> Any:
        time.sleep(0.1)
        return fit(*arguments)

    monkeypatch.setattr(MFTransductive, "fit", slow)
    options = BenchmarkOptions(systems=("rerank", "axn:mf@4", "axn:mf-refined@4"), ks=(1,), budgets=(20,))
    report = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    assert report.offline["axn:mf@4"].train_seconds > 0.1
    assert report.offline["axn:mf-refined@4"].train_seconds > 0.2
    assert report.offline["axn:mf-refined@4"].calls == 4 * N_ITEMS
    built = SystemName.parse("axn:mf-refined@4").build_options(N_TRAIN, N_ITEMS, 0)
    assert (built.refine, built.plan) == (18, PerQuery(9, 9))


def test_a_benchmark_that_was_stopped_goes_on(lab: Any, tmp_path: Path) -> None:
    data, _, first_stage, paid = lab
    score, stop = lab[1]._function, [500]

    def stopped(pairs: Any) -> Any:
        if stop and len(paid) > stop[0]:
            raise KeyboardInterrupt
        return score(pairs)

    scorer = FunctionScorer(stopped, name="low rank", batch_size=50)
    cached = CachedScorer(scorer, tmp_path / "scores.sqlite")
    options = BenchmarkOptions(systems=("rerank", "axn:mf@2", "adacur:cur@5"), ks=(1,), budgets=(20,))
    with pytest.raises(KeyboardInterrupt):
        benchmark(data, cached, first_stage, folder=tmp_path, options=options)
    stop.clear()
    report = benchmark(data, cached, first_stage, folder=tmp_path, options=options)
    assert len(paid) - len(set(paid)) <= 512
    fresh = benchmark(
        data, CachedScorer(scorer, tmp_path / "2.sqlite"), first_stage, folder=tmp_path / "2", options=options
    )
    assert [cell.recall for cell in fresh.cells] == [cell.recall for cell in report.cells]
    fewer = replace(data, queries=data.queries[:3])  # another run beside it in the same folder
    assert benchmark(fewer, cached, first_stage, folder=tmp_path, options=options).n_queries == 3


def test_a_shortlist_holds_for_every_system(lab: Any, tmp_path: Path) -> None:
    data, scorer, first_stage, _ = lab
    options = BenchmarkOptions(systems=("rerank", "axn", "axn-paper"), ks=(10,), budgets=(30,), shortlist=30)
    report = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    assert len({cell.recall[10].mean for cell in report.cells}) == 1  # all have scored the same thirty


def test_names_say_what_is_run() -> None:
    name = SystemName.parse("axn-r7/bm25:mf-ind@2.5")
    assert name == SystemName("axn", 7, "bm25", "mf-ind", 2.5)
    assert name.family == "axn-r7/bm25:mf-ind"
    method = name.search_method()
    assert isinstance(method, AXN)
    assert method.rounds == 7
    assert SystemName.parse("axn-paper").search_method() == METHODS["axn-paper"]
    assert SystemName.parse("rerank:mf").search_method() == Rerank("item vectors")
    assert SystemName.parse("axn/vectors").search_method() == AXN(first_round="item vectors")
    built = SystemName.parse("axn:mf@3").build_options(n_queries=40, n_items=1000, seed=1)
    assert built.plan == PerQuery(38, 37)
    mixed = SystemName.parse("axn-paper-r3-m0.5:mf@2")
    assert mixed.family == "axn-paper-r3-m0.5:mf"
    assert mixed.search_method() == replace(METHODS["axn-paper"], rounds=3, mixing=0.5)  # type: ignore[type-var]
    assert built.max_calls == 3000
    fewer = SystemName.parse("axn:mf@3x20")
    assert (fewer.queries, fewer.family) == (20, "axn:mf x20")
    assert fewer.build_options(n_queries=40, n_items=1000, seed=1).plan == PerQuery(75, 75)
    assert SystemName.parse("adacur:curx5").build_options(n_queries=9, n_items=7, seed=1).plan == AllItems(5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("axn mf", "is no system"),
        ("best", "no method 'best'"),
        ("rerank/faiss", "no first stage 'faiss'"),
        ("axn:magic@2", "no learner 'magic'"),
        ("rerank-r5", "no rounds"),
        ("tour-ce/vectors", "no first round"),
        ("axn:mf@0", "above 0"),
        ("axn:mf@2x0", "above 0"),
        ("rerank-m0.5", "rerank has no mixing"),
        ("rerank:cur@5", "use adacur:cur"),
        ("axn/vectors:cur@5", "use adacur:cur"),
        ("rerank/distilled", "by itself it is rerank:distilled@10"),
        ("axn/distilled", "such as in axn/distilled:mf@10"),
        ("axn/hybrid:distilled@2", "leave out /hybrid"),
        ("axn/late:mf-side-distilled@2", "leave out /late"),
        ("axn/states:mf-side-distilled@2", "leave out /states"),
        ("anncur/states:cur@5", "anncur has no use for vectors"),
    ],
)
def test_names_that_fit_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SystemName.parse(name)


@pytest.mark.parametrize(
    ("options", "changed", "message"),
    [
        ({"pairs": [("axn", "axn:mf")]}, {}, "'axn' is to be compared"),
        ({"ks": (0,)}, {}, "at least 1"),
        ({"ks": (50,), "budgets": (20,)}, {}, "no k of"),
        ({}, {"queries": ["query 10", "query 10"]}, "stand twice"),
        ({}, {"queries": ["query 1"]}, "train queries"),
        ({}, {"labels": ["nothing"] * N_TEST}, "nothing"),
        ({}, {"labels": ["item 1"]}, "1 labels"),
    ],
)
def test_what_cannot_be_measured_is_said_before_a_call_is_paid(
    lab: Any, tmp_path: Path, options: dict[str, Any], changed: dict[str, Any], message: str
) -> None:
    data, scorer, first_stage, paid = lab
    settings = {"systems": ("rerank", "axn:mf"), "ks": (1,), "budgets": (20,)} | options
    with pytest.raises(InputError, match=message):
        benchmark(replace(data, **changed), scorer, first_stage, folder=tmp_path, options=BenchmarkOptions(**settings))
    assert not paid


@pytest.mark.parametrize(
    ("first", "system", "message"),
    [
        ("dense", "axn:mf@11", "as many train queries"),
        ("dense", "axn:mf@5x4", "as many train queries; there are 4"),
        ("dense", "axn:mf@5x11", "asks for 11 train queries; there are 10"),
        ("dense", "adacur:cur@0.5", "one dense row"),
        ("dense", "axn:distilled", "fine-tune"),
        ("bm25", "tour-ce", "tour-ce needs the vectors of a dense first stage, and bm25"),
        ("bm25", "axn/tfidf:mf@2", "axn/tfidf:mf@2 needs the vectors"),
        ("bm25", "axn:mf-ind@2", "axn:mf-ind@2 needs the vectors"),
        ("bm25", "axn", "axn needs item vectors"),
        ("bm25", "bayes/vectors:mf@2", "bayes/vectors:mf@2 needs the vectors"),
        ("bm25", "axn/vectors:mf@2", "axn/vectors:mf@2 needs the vectors"),
        ("bm25", "axn:mf-adamw@2", "axn:mf-adamw@2 needs the vectors"),
        ("bm25", "rerank/hybrid", "rerank/hybrid needs the vectors"),
        ("dense", "axn/states:mf@1", "leaves no other; give @2"),
        ("hybrid", "axn/hybrid:mf@2", "has vectors beside already"),
        ("dense", "axn:mf@0.001", "a plan needs items for each query"),
        ("states", "axn/hybrid:mf@2", "has vectors beside already"),
        ("no tokens", "bayes/late:mf@2", "gives one for a text"),
        ("late", "axn/bm25:mf@2", "late interaction already"),
    ],
)
def test_what_cannot_be_built_is_said_before_a_call_is_paid(
    lab: Any, tmp_path: Path, first: str, system: str, message: str
) -> None:
    data, scorer, first_stage, paid = lab
    of_items = first_stage.encoder.embed(list(data.items.values()))
    others = {
        "bm25": BM25(),
        "hybrid": Hybrid(first_stage.encoder),
        "states": WithStates(first_stage, scorer),
        "late": WithVectors(LateInteraction(first_stage.encoder), first_stage),
        "no tokens": Dense(GivenVectors({}, name="given"), of_items),
    }
    first_stage = others.get(first, first_stage)
    with pytest.raises(InputError, match=message):
        benchmark(
            data, scorer, first_stage, folder=tmp_path, options=BenchmarkOptions(systems=("axn:mf", system), ks=(1,))
        )
    assert not paid


def test_reading_counts_where_the_benchmark_itself_is_over_states(lab: Any, tmp_path: Path) -> None:
    data, scorer, first_stage, _ = lab
    options = BenchmarkOptions(systems=("rerank", "bayes:mf-side@2", "axn/bm25"), ks=(1,), budgets=(20, N_ITEMS))
    over = WithStates(Hybrid(first_stage.encoder), scorer)
    report = benchmark(data, scorer, over, folder=tmp_path, options=options)
    assert [cell.recall[1].mean for cell in report.cells if cell.budget == N_ITEMS] == [1, 1, 1]
    assert [report.offline[name].calls for name in options.systems] == [N_ITEMS, 3 * N_ITEMS, N_ITEMS]
    index = Index.build(data.items, scorer=scorer, first_stage=WithStates(first_stage, scorer))
    assert System(index, METHODS["axn"]).offline_calls == N_ITEMS
