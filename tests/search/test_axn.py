"""AXN against algorithm 1 of the paper, written out a second time and slowly, and against known answers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from crossknn import AXN, BayesianRidge, MinNorm, Rerank
from crossknn.errors import InputError
from crossknn.search import Progress, Proposal, Task, run_rounds


def algorithm_1(task: Task, scores: np.ndarray, row: int, budget: int, rounds: int, mixing: float) -> list[int]:
    """Items in the order scored: k_s = B / R a round; eq. 4 by the pseudo-inverse, eq. 7, eq. 5; ties by index.

    B is at most what there is; the first rounds score one more where it does not divide by R.
    """
    model = task.item_model
    assert model is not None
    n_items = len(model.vectors)
    left = [i for i in range(n_items) if task.allowed is None or task.allowed[i]]
    budget, seen = min(budget, len(left)), []
    for done in range(rounds):
        k_s = budget // rounds + (done < budget % rounds)
        if not seen:
            liking = task.first_stage_scores[row].astype(float)
        else:
            matrix = model.vectors[seen]
            scaled = model.normalisation.scale * (scores[row, seen] - model.normalisation.shift)
            u = np.linalg.pinv(matrix.T @ matrix, rcond=1e-12) @ matrix.T @ (scaled - model.biases[seen])
            if mixing:
                assert task.query_vectors is not None
                u = (1 - mixing) * u + mixing * task.query_vectors[row]
            liking = np.array([sum(v * x for v, x in zip(model.vectors[i], u, strict=True)) for i in range(n_items)])
            liking = liking + model.biases
        best = sorted(left, key=lambda i: (-liking[i], i))[:k_s]
        seen += best
        left = [i for i in left if i not in best]
    return seen


@pytest.mark.parametrize("mixing", [0.0, 0.6])
@pytest.mark.parametrize(("budget", "rounds"), [(20, 5), (12, 2), (9, 9), (8, 1), (40, 4), (23, 5), (3, 5), (90, 4)])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_axn_is_algorithm_1(
    make_task: Any, mixing: float, budget: int, rounds: int, learned: bool, masked: bool
) -> None:
    allowed = np.arange(60) % 4 != 0 if masked else None
    task, scorer = make_task(4, 60, 7, seed=budget, learned=learned, allowed=allowed)
    progress = run_rounds(AXN(rounds, mixing, MinNorm()), task, budget)
    for row in range(4):
        assert progress.indices[row].tolist() == algorithm_1(task, scorer.scores, row, budget, rounds, mixing)


@pytest.mark.parametrize("solver", [MinNorm(), BayesianRidge(noise=1e-8, intercept_variance=1.0)])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("d", [1, 5, 12])
def test_scores_of_rank_d_are_solved_by_d_plus_1_items(make_task: Any, d: int, learned: bool, solver: Any) -> None:
    task, scorer = make_task(6, 200, d, seed=d, kind="linear", learned=learned)
    size = d + 1
    axn = AXN(2, solver=solver)
    task = replace(task, query_vectors=None)
    progress = run_rounds(axn, task, 2 * size)
    for row in range(6):
        exact = np.argsort(-scorer.scores[row])[:size]
        assert set(exact) <= set(progress.indices[row])
    np.testing.assert_allclose(progress.predicted[:, size:], progress.scores[:, size:], rtol=1e-3, atol=1e-2)
    assert np.isnan(progress.predicted[:, :size]).all()


@pytest.mark.parametrize(
    ("solver", "ucb"),
    [(MinNorm(), 0.0), (BayesianRidge(intercept_variance=1.0), 0.0), (BayesianRidge(intercept_variance=1.0), 1.0)],
)
def test_what_a_search_remembers_of_earlier_rounds_changes_nothing_that_it_finds(
    make_task: Any, solver: Any, ucb: float
) -> None:
    class Forgetful(AXN):
        def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
            progress.memory = []
            return super().propose(task, progress, size)

    task, _ = make_task(5, 80, 7, learned=True)
    found = [run_rounds(method(rounds=15, solver=solver, ucb=ucb), task, 60) for method in (AXN, Forgetful)]
    np.testing.assert_array_equal(found[0].indices, found[1].indices)
    np.testing.assert_allclose(found[0].predicted, found[1].predicted, rtol=1e-9, atol=1e-9)


def highest_bounds(
    task: Task, scores: np.ndarray, row: int, sizes: list[int], axn: AXN, among: int
) -> tuple[list[int], list[float]]:
    """Items in the order scored, and what was expected of each after the first round: the posterior of eq. 2.25 and
    2.26 of Rasmussen and Williams, dense and from scratch."""
    model, solver = task.item_model, axn.solver
    assert model is not None
    assert isinstance(solver, BayesianRidge)
    assert task.query_vectors is not None
    kernel = model.vectors @ model.vectors.T + solver.intercept_variance
    mean = model.vectors @ task.query_vectors[row] + model.biases
    targets = model.normalisation.apply(scores[row])
    left = [i for i in range(len(mean)) if task.allowed is None or task.allowed[i]]
    seen = sorted(left, key=lambda i: (-task.first_stage_scores[row, i], i))[: sizes[0]]
    told: list[float] = []
    for size in sizes[1:]:
        inverse = np.linalg.inv(kernel[np.ix_(seen, seen)] + solver.noise * np.eye(len(seen)))
        means = mean + kernel[:, seen] @ inverse @ (targets[seen] - mean[seen])
        variances = np.diag(kernel) - (kernel[:, seen] @ inverse * kernel[:, seen]).sum(axis=1) + solver.noise
        bounds = means + axn.ucb * np.sqrt(variances)
        likely = sorted(set(left) - set(seen), key=lambda i: (-means[i], i))[:among]
        best = sorted(likely, key=lambda i: (-bounds[i], i))[:size]
        seen, told = seen + best, told + model.normalisation.invert(means[best]).tolist()
    return seen, told


@pytest.mark.parametrize("ucb", [0.5, 2.0])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("n_items", "size"), [(60, 5), (2000, 5), (1200, 120)])
def test_with_ucb_the_next_items_are_those_of_the_highest_confidence_bounds(
    make_task: Any, ucb: float, masked: bool, n_items: int, size: int
) -> None:
    allowed = np.arange(n_items) % 4 != 0 if masked else None
    task, scorer = make_task(4, n_items, 7, learned=True, allowed=allowed)
    axn = AXN(6, solver=BayesianRidge(noise=0.3, intercept_variance=2.0), ucb=ucb)
    progress = run_rounds(axn, task, 6 * size)
    plain = run_rounds(replace(axn, ucb=0.0), task, 6 * size)
    assert not np.array_equal(progress.indices, plain.indices)
    for row in range(4):
        items, told = highest_bounds(task, scorer.scores, row, [size] * 6, axn, max(100, 4 * size))
        assert progress.indices[row].tolist() == items
        np.testing.assert_allclose(progress.predicted[row, size:], told, rtol=1e-6)


def test_axn_finds_what_reranking_with_as_many_calls_misses(make_task: Any) -> None:
    task, scorer = make_task(8, 300, 6, kind="linear")
    exact = np.argsort(-scorer.scores, axis=1)[:, :10]
    found = {}
    for method in (Rerank(), AXN(5, solver=MinNorm())):
        indices = run_rounds(method, task, 30).indices
        found[method] = np.mean([np.isin(row, seen).mean() for row, seen in zip(exact, indices, strict=True)])
    assert found[AXN(5, solver=MinNorm())] == 1
    assert found[Rerank()] < 0.5


@pytest.mark.parametrize(
    ("missing", "method", "message"),
    [("item_model", AXN(), "no item vectors"), ("query_vectors", AXN(mixing=0.5), "set mixing=0")],
)
def test_what_is_missing_is_said_before_a_call_is_spent(
    make_task: Any, missing: str, method: AXN, message: str
) -> None:
    task, scorer = make_task(1, 10, 3)
    with pytest.raises(InputError, match=message):
        run_rounds(method, replace(task, **{missing: None}), 10)
    assert not scorer.calls


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 0},
        {"mixing": -0.1},
        {"mixing": 1.1},
        {"mixing": np.nan},
        {"ucb": -1.0},
        {"ucb": np.inf},
        {"ucb": 1.0, "solver": MinNorm()},
        {"ucb": 1.0, "mixing": 0.5},
    ],
    ids=str,
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        AXN(**settings)
