"""Random search problems whose scores are known, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from crossknn import ReplayScorer
from crossknn.factorization import ItemModel, Normalisation
from crossknn.search import Task


@dataclass
class Replayed:
    """The replay scorer over a matrix, which keeps the books here; queries are named by their row."""

    scores: np.ndarray
    calls: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        queries, items = ([str(n) for n in range(size)] for size in self.scores.shape)
        self._bound = ReplayScorer(self.scores, queries, items).prepare(items)

    def score(self, queries: Sequence[str], query_indices: np.ndarray, item_indices: np.ndarray) -> np.ndarray:
        self.calls += [(queries[q], int(i)) for q, i in zip(query_indices, item_indices, strict=True)]
        return self._bound.score(queries, query_indices, item_indices)


def make_task(
    n_queries: int,
    n_items: int,
    d: int,
    seed: int = 0,
    *,
    kind: str = "noisy",
    learned: bool = False,
    allowed: np.ndarray | None = None,
) -> tuple[Task, Replayed]:
    """Scores that are "noisy", exactly "linear" in the item vectors, full of "ties", or "constant"."""
    rng = np.random.default_rng(seed)
    vectors, hidden = rng.normal(size=(n_items, d)), rng.normal(size=(n_queries, d))
    model = ItemModel.from_vectors(vectors)
    if learned:
        model = ItemModel(vectors, rng.normal(size=n_items), Normalisation(0.25, 3.0))
    linear = model.normalisation.invert(hidden @ vectors.T + model.biases)
    scores = {
        "linear": linear,
        "noisy": linear + rng.normal(size=linear.shape),
        "ties": np.round(linear / 2),
        "constant": np.full(linear.shape, 0.1),
    }[kind]
    scorer = Replayed(scores)
    first = rng.normal(size=(n_queries, n_items)).astype(np.float32)
    if kind in ("ties", "constant"):
        first = np.round(first)
    query_vectors = hidden + 0.5 * rng.normal(size=hidden.shape)
    task = Task([str(n) for n in range(n_queries)], scorer, first, model, query_vectors, allowed)
    return task, scorer


def one_query(task: Task, row: int) -> Task:
    assert task.query_vectors is not None
    return replace(
        task,
        queries=task.queries[row : row + 1],
        first_stage_scores=task.first_stage_scores[row : row + 1],
        query_vectors=task.query_vectors[row : row + 1],
    )


@pytest.fixture(scope="session", name="make_task")
def _make_task() -> object:
    return make_task


@pytest.fixture(scope="session", name="one_query")
def _one_query() -> object:
    return one_query
