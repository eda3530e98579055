"""Methods run on exact scores that are known already: what they score and how long they think, at no CE call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.evaluation.origins import first_stage_ranks
from crossknn.index import Index
from crossknn.scorers import ReplayScorer
from crossknn.search import Progress, SearchMethod, Task, run_rounds

_QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class Run:
    """One method at one budget.

    Attributes:
        scored: (n_queries, n_scored) items scored.
        scores: (n_queries, n_scored) their CE scores.
        fit_seconds: per query, fitting its vector.
        retrieve_seconds: per query, choosing the items to score.
    """

    scored: IntArray
    scores: FloatArray
    fit_seconds: float
    retrieve_seconds: float


@dataclass(frozen=True)
class Replayed:
    """All methods at all budgets.

    Attributes:
        runs: (method, budget) to what it did.
        first_stage_ranks: (n_queries, n_items) from 1.
        first_stage_seconds: per query, its embedding and the cheap scores of all items; every run begins with it.
    """

    runs: dict[tuple[str, int], Run]
    first_stage_ranks: IntArray
    first_stage_seconds: float


def replay(
    index: Index, queries: Sequence[str], exact: FloatArray, methods: Mapping[str, SearchMethod], budgets: Sequence[int]
) -> Replayed:
    """Run every method at every budget on stored scores.

    Args:
        index: what is searched.
        queries: query texts, at least one.
        exact: (n_queries, n_items) their CE scores.
        methods: name to method.
        budgets: CE calls per query; each is a run of its own.

    Cost: no CE call.
    """
    scorer = ReplayScorer(exact, queries, index.items)
    batches: dict[tuple[str, int], list[Run]] = {(name, budget): [] for budget in budgets for name in methods}
    ranks = np.empty(exact.shape, dtype=np.int64)
    _warm_up(replace(index.task(queries[:1]), scorer=scorer), methods, min(budgets))
    seconds = 0.0
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[first : first + _QUERIES_AT_ONCE]
        start = time.perf_counter()
        task = index.task(some)
        seconds += time.perf_counter() - start
        ranks[first : first + len(some)] = [first_stage_ranks(scores) for scores in task.first_stage_scores]
        replayed = replace(task, scorer=scorer)
        for (name, budget), done in batches.items():
            done.append(_run(run_rounds(methods[name], replayed, budget)))
    return Replayed({key: _joined(done) for key, done in batches.items()}, ranks, seconds / len(queries))


def _warm_up(task: Task, methods: Mapping[str, SearchMethod], budget: int) -> None:
    """What libraries do only once is no query's time."""
    for method in methods.values():
        run_rounds(method, task, budget)


def _run(progress: Progress) -> Run:
    return Run(
        scored=progress.indices,
        scores=progress.scores,
        fit_seconds=sum(cost.solve_seconds for cost in progress.rounds),
        retrieve_seconds=sum(cost.retrieve_seconds for cost in progress.rounds),
    )


def _joined(batches: list[Run]) -> Run:
    """Batches of queries as one run."""
    n_queries = [len(batch.scored) for batch in batches]
    return Run(
        scored=np.vstack([batch.scored for batch in batches]),
        scores=np.vstack([batch.scores for batch in batches]),
        fit_seconds=float(np.average([batch.fit_seconds for batch in batches], weights=n_queries)),
        retrieve_seconds=float(np.average([batch.retrieve_seconds for batch in batches], weights=n_queries)),
    )
