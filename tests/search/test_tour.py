"""TouR against its losses, differentiated numerically."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crossknn.errors import InputError
from crossknn.search import TouR, run_rounds


def loss(kind: str, u: np.ndarray, matrix: np.ndarray, biases: np.ndarray, scores: np.ndarray) -> float:
    predicted = matrix @ u + biases
    if kind == "mse":
        return float(np.mean((predicted - scores) ** 2))
    target = np.exp(scores) / np.exp(scores).sum()
    return -float(np.sum(target * np.log(np.exp(predicted) / np.exp(predicted).sum())))


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", ["ce", "mse"])
def test_each_round_follows_the_slope_of_its_loss(make_task: Any, kind: str, learned: bool) -> None:
    allowed = np.arange(60) % 5 > 0
    task, _ = make_task(3, 60, 4, learned=learned, allowed=allowed)
    model, step, size = task.item_model, 0.05, 6
    progress = run_rounds(TouR(kind, rounds=3, step=step), task, 3 * size)
    for row, u in enumerate(task.query_vectors):
        seen: list[int] = []
        liking = task.first_stage_scores[row].astype(float)
        for _ in range(3):
            left = [i for i in np.flatnonzero(allowed) if i not in seen]
            best = sorted(left, key=lambda i: (-liking[i], i))[:size]
            at = len(seen)
            seen += best
            assert progress.indices[row, at : at + size].tolist() == best
            scores = model.normalisation.apply(progress.scores[row, at : at + size])
            given = model.vectors[best], model.biases[best], scores
            slope = [(loss(kind, u + e, *given) - loss(kind, u - e, *given)) / 2e-6 for e in 1e-6 * np.eye(4)]
            u = u - step * np.array(slope)
            liking = model.vectors @ u + model.biases


def test_small_steps_toward_linear_scores_lower_their_error(make_task: Any) -> None:
    task, _ = make_task(5, 200, 6, kind="linear")
    progress = run_rounds(TouR("mse", rounds=12, step=0.2), task, 120)
    missed = np.abs(progress.predicted - progress.scores)
    assert (missed[:, -10:].mean(axis=1) < 0.3 * missed[:, 10:20].mean(axis=1)).all()


@pytest.mark.parametrize("missing", ["item_model", "query_vectors"])
def test_without_vectors_there_is_nothing_to_step_from(make_task: Any, missing: str) -> None:
    task, scorer = make_task(1, 10, 3)
    with pytest.raises(InputError, match="dense first stage"):
        run_rounds(TouR(), replace(task, **{missing: None}), 5)
    assert not scorer.calls


@pytest.mark.parametrize("settings", [{"loss": "kl"}, {"rounds": 0}, {"step": 0.0}], ids=str)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        TouR(**settings)
