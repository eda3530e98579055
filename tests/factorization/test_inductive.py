"""MF_Ind: the networks as written down in the paper, what they learn, and that a run that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import BM25, BuildOptions, Dense, FunctionScorer, GivenVectors, Index, PerQuery
from crossknn.errors import InputError
from crossknn.factorization import GatedMLP, MFInductive
from crossknn.scores import Pairs, ScoreMatrix

N_QUERIES, N_ITEMS, D = 60, 150, 6
OPTIONS = MFInductive(epochs=30, learning_rate=1e-2, batch_size=128, seed=1)


def _problem(seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Scores that are products, but of other vectors than the first stage's: turned ones."""
    rng = np.random.default_rng(seed)
    queries, items = (rng.normal(size=(n, D)) / np.sqrt(D) for n in (N_QUERIES, N_ITEMS))
    turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
    return 5 * queries @ turn @ items.T - 3, {"item_vectors": items, "query_vectors": queries}


def _observed(exact: np.ndarray, queries: int) -> ScoreMatrix:
    seen = np.random.default_rng(1).random(exact.shape) < 0.3
    seen[queries:] = False
    seen[:, N_ITEMS - 50 :] = False  # items that were never scored
    return ScoreMatrix(*np.nonzero(seen), exact[seen], exact.shape)


def _correlation(model: Any, exact: np.ndarray, vectors: dict[str, np.ndarray], rows: slice, columns: slice) -> float:
    u = model.query_vectors(vectors["query_vectors"])[rows]
    predicted = u @ model.vectors[columns].T
    return float(np.corrcoef(predicted.ravel(), exact[rows, columns].ravel())[0, 1])


def test_a_gated_mlp_is_its_formula_and_row_by_row() -> None:
    rng = np.random.default_rng(0)
    w1, b1, w2, b2 = (rng.normal(size=shape) for shape in ((3, 4), 4, (4, 3), 3))
    x = rng.normal(size=(5, 3)).astype(np.float32)
    mlp = GatedMLP(w1, b1, w2, b2, np.array([0.7]))
    cubed = [[sum(v[k] * w1[k, j] for k in range(3)) + b1[j] for j in range(4)] for v in x]
    gelu = [[z / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))) for z in row] for row in cubed]
    s = 1 / (1 + np.exp(-0.7))
    slow = s * (np.array(gelu) @ w2 + b2) + (1 - s) * x
    np.testing.assert_allclose(mlp.apply(x), slow, rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(mlp.apply(x[2:3]), mlp.apply(x)[2:3])
    np.testing.assert_array_equal(GatedMLP(w1, b1, w2, b2, np.array([-50.0])).apply(x), x)
    assert mlp.apply(x[:0]).shape == (0, 3)


@pytest.mark.torch
def test_it_learns_what_carries_over_to_queries_and_items_never_scored() -> None:
    pytest.importorskip("torch")
    exact, vectors = _problem()
    model = OPTIONS.fit(_observed(exact, queries=45), **vectors)
    unseen = slice(45, None), slice(N_ITEMS - 50, None)
    start = np.corrcoef((vectors["query_vectors"] @ vectors["item_vectors"].T)[unseen].ravel(), exact[unseen].ravel())
    assert start[0, 1] < 0.5
    assert _correlation(model, exact, vectors, *unseen) > 0.8
    assert model.vectors.dtype == np.float32
    assert model.vectors.shape == (N_ITEMS, D)


@pytest.mark.torch
def test_torch_and_numpy_compute_the_same_and_the_best_epoch_is_kept() -> None:
    torch = pytest.importorskip("torch")
    from crossknn.factorization import inductive

    exact, vectors = _problem()
    scores = _observed(exact, queries=N_QUERIES)
    diverging = MFInductive(epochs=4, learning_rate=50.0, seed=1, patience=4).fit(scores, **vectors)
    start = {name: value.detach() for name, value in inductive._start(torch, D, OPTIONS).items()}
    x = torch.tensor(vectors["query_vectors"], dtype=torch.float32)
    expected = inductive._forward(torch, start, "queries", x).numpy()
    mapped = diverging.query_vectors(vectors["query_vectors"].astype(np.float32))
    np.testing.assert_allclose(mapped, expected, atol=1e-6)  # nothing beat the start
    np.testing.assert_allclose(expected, vectors["query_vectors"], atol=0.02)  # and that is nearly what was given


@pytest.mark.torch
def test_it_stops_when_held_out_cells_get_no_better_and_learns_nothing_of_them(tmp_path: Path) -> None:
    """Scores of pure noise: kept cells can be learned by heart, held-out ones cannot."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    _, vectors = _problem()
    rows, columns = np.nonzero(rng.random((N_QUERIES, N_ITEMS)) < 0.05)
    noise = ScoreMatrix(rows, columns, rng.normal(size=len(rows)), (N_QUERIES, N_ITEMS))
    options = replace(OPTIONS, epochs=200, hidden=16, patience=3, checkpoint=tmp_path / "mf.pt")
    options.fit(noise, **vectors)
    state = torch.load(tmp_path / "mf.pt", weights_only=True)
    assert state["epoch"] == state["best_epoch"] + 3 < 100


@pytest.mark.torch
def test_a_run_that_was_stopped_goes_on_and_ends_as_one_that_was_not(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    exact, vectors = _problem()
    scores = _observed(exact, queries=N_QUERIES)
    whole = replace(OPTIONS, epochs=6).fit(scores, **vectors)
    for epochs in (2, 6):
        parted = replace(OPTIONS, epochs=epochs, checkpoint=tmp_path / "mf.pt").fit(scores, **vectors)
    np.testing.assert_array_equal(parted.vectors, whole.vectors)
    with pytest.raises(InputError, match="6 epochs on, further than the 5"):
        replace(OPTIONS, epochs=5, checkpoint=tmp_path / "mf.pt").fit(scores, **vectors)
    again = replace(OPTIONS, epochs=6, checkpoint=tmp_path / "mf.pt")
    elsewhere = {name: v * (1 + 1e-6) for name, v in vectors.items()}  # an encoder on another number of cores
    np.testing.assert_allclose(again.fit(scores, **elsewhere).vectors, whole.vectors, atol=1e-4)
    for name in vectors:
        with pytest.raises(InputError, match="checkpoint of other vectors"):
            again.fit(scores, **vectors | {name: vectors[name][::-1]})
    other = replace(OPTIONS, checkpoint=tmp_path / "mf.pt", seed=2)
    with pytest.raises(InputError, match="checkpoint of other scores"):
        other.fit(scores, **vectors)
    (tmp_path / "mf.pt").write_bytes(b"nothing")
    with pytest.raises(InputError, match="no checkpoint"):
        replace(other, seed=1).fit(scores, **vectors)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda:99"}, "cannot use the device 'cuda:99'"),
        ({"device": "toaster"}, "cannot use the device 'toaster'"),
        ({"checkpoint": Path("/nowhere/mf.pt")}, "cannot be written"),
    ],
    ids=str,
)
def test_what_would_fail_after_the_scores_are_paid_fails_before(settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(InputError, match=message):
        replace(OPTIONS, **settings).check(Pairs(np.arange(3), np.arange(3)), 3, has_vectors=True)


@pytest.mark.torch
def test_an_index_keeps_both_networks_without_torch_to_read_it(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    exact, vectors = _problem()
    texts = {f"i{n}": v for n, v in enumerate(vectors["item_vectors"])}
    asked = {f"q{n}": v for n, v in enumerate(vectors["query_vectors"])}
    scorer = FunctionScorer(lambda pairs: [exact[int(q[1:]), int(i[1:])] for q, i in pairs], name="products")
    stage = Dense(GivenVectors(texts | asked, name="given"))
    options = BuildOptions(plan=PerQuery(10, 10), factorization=replace(OPTIONS, epochs=3))
    built = Index.build(list(texts), scorer=scorer, first_stage=stage, queries=list(asked)[:40], options=options)
    built.save(tmp_path / "index")
    loaded = Index.load(tmp_path / "index", scorer=scorer, first_stage=stage)
    task, again = (index.task(["q50", "q51"]) for index in (built, loaded))
    np.testing.assert_array_equal(task.query_vectors, again.query_vectors)
    assert not np.array_equal(task.query_vectors, vectors["query_vectors"][50:52].astype(np.float32))
    assert loaded.search("q50", k=3, budget=20).hits == built.search("q50", k=3, budget=20).hits
    for index in (built, loaded):
        placed = index.item_model.place(vectors["item_vectors"][[7]].astype(np.float32))
        np.testing.assert_array_equal(placed, built.item_model.vectors[[7]])
    untaught = Index.build(list(texts), scorer=scorer, first_stage=stage).item_model
    np.testing.assert_array_equal(untaught.place(vectors["item_vectors"][:2]), untaught.vectors[:2])


@pytest.mark.torch
def test_without_vectors_there_is_nothing_to_learn_from() -> None:
    pytest.importorskip("torch")
    exact, vectors = _problem()
    scores = _observed(exact, queries=N_QUERIES)
    for given in ({}, vectors | {"item_vectors": None}):
        with pytest.raises(InputError, match="dense first stage"):
            OPTIONS.fit(scores, **given)
    with pytest.raises(InputError, match="do not fit"):
        OPTIONS.fit(scores, vectors["item_vectors"][:-1], vectors["query_vectors"])


def test_without_a_dense_first_stage_nothing_is_paid_for() -> None:
    calls: list[Any] = []
    scorer = FunctionScorer(lambda pairs: calls.append(pairs) or [0.0] * len(pairs), name="none")
    with pytest.raises((InputError, ImportError)):
        Index.build(
            ["a", "b"],
            scorer=scorer,
            first_stage=BM25(),
            queries=["a"],
            options=BuildOptions(factorization=MFInductive()),
        )
    assert not calls


@pytest.mark.parametrize(
    "settings", [{"epochs": 0}, {"learning_rate": 0.0}, {"batch_size": 0}, {"held_out": 1.0}, {"hidden": 0}], ids=str
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        MFInductive(**settings)
