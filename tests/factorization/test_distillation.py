"""Distillation: its loss against the formula, that it learns, and that a run that was stopped goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn.errors import InputError
from crossknn.factorization import Distillation
from crossknn.scores import ScoreMatrix

pytestmark = pytest.mark.torch
ITEMS = ["cat", "dog bites", "water brain", "fish", "bird cat", "bone skin", "skin", "dog dog"]
QUERIES = ["water", "cat bird", "bone", "dog"]
OPTIONS = Distillation(epochs=4, learning_rate=1e-3, queries_per_step=3, items_per_query=4, scale=2.0)


@pytest.fixture
def model(tiny_torch: Any, tmp_path: Path) -> Any:
    library = pytest.importorskip("sentence_transformers")
    return library.SentenceTransformer(str(tiny_torch.encoder(tmp_path / "encoder")), device="cpu")


def _scores() -> ScoreMatrix:
    """Words in common; one query has a single score, from which nothing can be learned."""
    exact = np.array([[3.0 * len({*q.split()} & {*i.split()}) - len(i) / 5 for i in ITEMS] for q in QUERIES])
    seen = np.ones(exact.shape, dtype=bool)
    seen[3, 1:] = False
    return ScoreMatrix(*np.nonzero(seen), exact[seen], exact.shape)


def _cross_entropy(model: Any, scores: ScoreMatrix) -> float:
    vectors = dict(zip(QUERIES + ITEMS, model.encode(QUERIES + ITEMS), strict=True))
    losses = []
    for query, cells in list(scores.by_query())[:3]:
        a = scores.values[cells]
        s = np.array([OPTIONS.scale * vectors[QUERIES[query]] @ vectors[ITEMS[i]] for i in scores.item_indices[cells]])
        losses.append(-np.sum(np.exp(a) / np.exp(a).sum() * (s - np.log(np.sum(np.exp(s - s.max()))) - s.max())))
    return float(np.mean(losses))


def test_the_loss_is_the_cross_entropy_of_the_two_softmaxes(model: Any) -> None:
    torch, scores = pytest.importorskip("torch"), _scores()
    cells = [cells for _, cells in scores.by_query()][:3]
    loss = OPTIONS._loss(torch, model.eval(), QUERIES[:3], ITEMS, scores, cells)
    np.testing.assert_allclose(float(loss.detach()), _cross_entropy(model, scores), rtol=1e-4)


def test_the_encoder_comes_nearer_to_the_cross_encoder(model: Any) -> None:
    scores, steps = _scores(), []
    targets = [np.exp(scores.values[cells]) / np.exp(scores.values[cells]).sum() for _, cells in scores.by_query()][:3]
    least = float(np.mean([-np.sum(target * np.log(target)) for target in targets]))
    for module in model.modules():
        if type(module).__name__ == "Dropout":
            module.p = 0.0
    before = _cross_entropy(model, scores)
    replace(OPTIONS, epochs=60, items_per_query=99).fit(
        model, QUERIES, ITEMS, scores, progress=lambda done, total: steps.append((done, total))
    )
    assert _cross_entropy(model, scores) - least < 0.1 * (before - least)
    assert steps == [(n, 60) for n in range(1, 61)]


def test_a_run_that_was_stopped_goes_on_and_ends_as_one_that_was_not(
    model: Any, tiny_torch: Any, tmp_path: Path
) -> None:
    library, scores = pytest.importorskip("sentence_transformers"), _scores()
    folder = str(tmp_path / "encoder")
    OPTIONS.fit(model, QUERIES, ITEMS, scores)
    for epochs in (2, 4):
        parted = library.SentenceTransformer(folder, device="cpu")
        replace(OPTIONS, epochs=epochs, checkpoint=tmp_path / "state.pt").fit(parted, QUERIES, ITEMS, scores)
    np.testing.assert_array_equal(parted.encode(ITEMS), model.encode(ITEMS))
    with pytest.raises(InputError, match="checkpoint of other scores"):
        replace(OPTIONS, checkpoint=tmp_path / "state.pt").fit(parted, QUERIES, ITEMS, scores)  # trained weights


def test_a_limit_on_length_is_for_training_alone(model: Any, tiny_torch: Any, tmp_path: Path) -> None:
    whole, scores = (
        pytest.importorskip("sentence_transformers").SentenceTransformer(str(tmp_path / "encoder")),
        _scores(),
    )
    longest, seen = model.max_seq_length, []
    handle = model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]["input_ids"].shape[1]))
    replace(OPTIONS, max_length=3, epochs=1).fit(model, QUERIES, ITEMS, scores)
    handle.remove()
    assert set(seen) == {3}
    assert model.max_seq_length == longest
    replace(OPTIONS, max_length=10_000, epochs=1).fit(whole, QUERIES, ITEMS, scores)
    assert whole.max_seq_length == longest

    class Unlimited(type(whole)):
        max_seq_length = property(lambda _: None)

    whole.__class__ = Unlimited
    replace(OPTIONS, epochs=1).fit(whole, QUERIES, ITEMS, scores)
    with pytest.raises(InputError, match="no limit that could be set"):
        replace(OPTIONS, epochs=1, max_length=3).fit(whole, QUERIES, ITEMS, scores)


def test_what_cannot_be_distilled(model: Any) -> None:
    scores = _scores()
    with pytest.raises(InputError, match="do not fit"):
        OPTIONS.fit(model, QUERIES, ITEMS[:-1], scores)
    single = ScoreMatrix(np.array([0, 1]), np.array([0, 0]), np.array([1.0, 2.0]), scores.shape)
    with pytest.raises(InputError, match="two scored items"):
        OPTIONS.fit(model, QUERIES, ITEMS, single)


@pytest.mark.parametrize(
    "settings",
    [{"epochs": 0}, {"items_per_query": 1}, {"learning_rate": 0.0}, {"max_length": 2}, {"scale": -1.0}],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        Distillation(**settings)
