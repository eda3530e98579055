"""Every system of the paper in one run, on scores of exactly low rank, so that what each must find is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import AXN, CachedScorer, Dense, FunctionScorer, GivenVectors, PerQuery, Rerank
from crossknn.errors import InputError
from crossknn.evaluation import BenchmarkData, BenchmarkOptions, benchmark
from crossknn.evaluation.systems import SystemName
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
    return data, FunctionScorer(score, name="low rank"), Dense(GivenVectors(vectors)), paid


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
    "anncur:cur@5",
    "adacur:cur@5",
    "adacur/bm25:cur@5",
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
    assert report.offline["axn:mf@5"].family == report.offline["axn:mf@2"].family == "axn:mf"
    assert report.offline["axn:mf@5"].train_seconds > 0
    assert report.offline["rerank/bm25"].embed_seconds == 0 < report.offline["rerank"].embed_seconds
    seconds = report.offline_seconds("axn:mf@2")
    assert seconds is not None
    assert seconds > report.offline["axn:mf@2"].train_seconds

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
    options = BenchmarkOptions(
        systems=systems, ks=(1,), budgets=(20,), trainable=lambda: library.SentenceTransformer(folder, device="cpu")
    )
    first_stage = Dense(SentenceTransformersEncoder(folder, device="cpu"))
    report = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    assert [cell.method for cell in report.cells] == list(systems)
    assert {report.offline[name].calls for name in systems[1:]} == {2 * N_ITEMS}
    assert report.offline["axn:distilled@2"].reembed_seconds > 0
    kept = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert kept == {f"{learner}@2.{what}" for learner in ("mf-ind", "distilled") for what in ("pt", "seconds")}
    again = benchmark(data, scorer, first_stage, folder=tmp_path, options=options)
    for name in ("axn:mf-ind@2", "axn:distilled@2"):  # it went on from checkpoints, and does not call that quick
        assert again.offline[name].train_seconds > report.offline[name].train_seconds


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
    assert built.max_calls == 3000


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
    ],
)
def test_names_that_fit_nothing_are_refused(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SystemName.parse(name)


@pytest.mark.parametrize(
    ("system", "message"),
    [("axn:mf@11", "as many train queries"), ("adacur:cur@0.5", "one dense row"), ("axn:distilled", "fine-tune")],
)
def test_what_cannot_be_built_is_said_before_a_call_is_paid(
    lab: Any, tmp_path: Path, system: str, message: str
) -> None:
    data, scorer, first_stage, paid = lab
    with pytest.raises(InputError, match=message):
        benchmark(
            data, scorer, first_stage, folder=tmp_path, options=BenchmarkOptions(systems=("axn:mf", system), ks=(1,))
        )
    assert not paid
