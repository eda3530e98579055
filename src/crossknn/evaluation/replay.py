"""Methods run on exact scores that are known already: what they score and how long they think, at no CE call."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.first_stage import calls_to_prepare
from crossknn.index import Index
from crossknn.scorers import ReplayScorer
from crossknn.search import Progress, SearchMethod, run_rounds
from crossknn.vectors import ranks_of

_QUERIES_AT_ONCE = 32


@dataclass(frozen=True)
class Offline:
    """What was spent before the first query.

    Attributes:
        calls: CE calls that the index was learned from, and one for each item that was read.
        embed_seconds: the first stage's vectors of all items.
        train_seconds: from scores to item vectors, or to another dual encoder.
        reembed_seconds: embedding all items again with that.
        items_read: of the calls, those that read an item; their time is in ``embed_seconds``.
        family: systems of one family differ only in calls; they are one line in a figure.
    """

    calls: int = 0
    embed_seconds: float = 0.0
    train_seconds: float = 0.0
    reembed_seconds: float = 0.0
    items_read: int = 0
    family: str = ""


@dataclass(frozen=True)
class System:
    """A search method over an index of its own: the same items and scorer, but another first stage or other vectors.

    Attributes:
        index: what is searched.
        method: how.
        offline: what the index cost, where that was measured; None counts its calls alone.
    """

    index: Index
    method: SearchMethod
    offline: Offline | None = None

    @property
    def offline_calls(self) -> int:
        """CE calls that the index was learned from, and one for each item that was read."""
        if self.offline is not None:
            return self.offline.calls
        scored = 0 if self.index.train_scores is None else len(self.index.train_scores.values)
        return scored + calls_to_prepare(self.index.first_stage, len(self.index))


@dataclass(frozen=True)
class Run:
    """One system at one budget.

    Attributes:
        scored: (n_queries, n_scored) items scored.
        scores: (n_queries, n_scored) their CE scores.
        first_stage_seconds: per query, its embedding and the cheap scores of all items.
        fit_seconds: per query, fitting its vector.
        retrieve_seconds: per query, choosing the items to score.
    """

    scored: IntArray
    scores: FloatArray
    first_stage_seconds: float
    fit_seconds: float
    retrieve_seconds: float


@dataclass(frozen=True)
class Replayed:
    """All systems at all budgets.

    Attributes:
        runs: (system, budget) to what it did.
        first_stage_ranks: (n_queries, n_items) from 1, by the first system's first stage.
    """

    runs: dict[tuple[str, int], Run]
    first_stage_ranks: IntArray


def replay(
    systems: Mapping[str, System], queries: Sequence[str], exact: FloatArray, budgets: Sequence[int]
) -> Replayed:
    """Run every system at every budget on stored scores.

    Args:
        systems: name to system, at least one, all over the same items.
        queries: query texts, at least one.
        exact: (n_queries, n_items) their CE scores.
        budgets: CE calls per query; each is a run of its own.

    Cost: no CE call.
    """
    first_index = next(iter(systems.values())).index
    scorer = ReplayScorer(exact, queries, first_index.items, first_index.scorer.fingerprint)
    indexes = {id(system.index): system.index for system in systems.values()}
    batches: dict[tuple[str, int], list[Run]] = {(name, budget): [] for budget in budgets for name in systems}
    ranks, everything = np.empty(exact.shape, dtype=np.int64), np.arange(exact.shape[1])
    for system in systems.values():  # what libraries do only once is no query's time
        run_rounds(system.method, replace(system.index.task(queries[:1]), scorer=scorer), min(budgets))
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[first : first + _QUERIES_AT_ONCE]
        tasks, seconds = {}, {}
        for key, index in indexes.items():
            start = time.perf_counter()
            tasks[key] = replace(index.task(some), scorer=scorer)
            seconds[key] = (time.perf_counter() - start) / len(some)
        by_first_stage = tasks[id(first_index)].first_stage_scores
        ranks[first : first + len(some)] = [ranks_of(scores, everything) for scores in by_first_stage]
        for (name, budget), done in batches.items():
            key = id(systems[name].index)
            done.append(_run(run_rounds(systems[name].method, tasks[key], budget), seconds[key]))
    return Replayed({key: _joined(done) for key, done in batches.items()}, ranks)


def _run(progress: Progress, first_stage_seconds: float) -> Run:
    return Run(
        scored=progress.indices,
        scores=progress.scores,
        first_stage_seconds=first_stage_seconds,
        fit_seconds=sum(cost.solve_seconds for cost in progress.rounds),
        retrieve_seconds=sum(cost.retrieve_seconds for cost in progress.rounds),
    )


def _joined(batches: list[Run]) -> Run:
    """Batches of queries as one run."""
    n_queries = [len(batch.scored) for batch in batches]

    def mean(seconds: list[float]) -> float:
        return float(np.average(seconds, weights=n_queries))

    return Run(
        scored=np.vstack([batch.scored for batch in batches]),
        scores=np.vstack([batch.scores for batch in batches]),
        first_stage_seconds=mean([batch.first_stage_seconds for batch in batches]),
        fit_seconds=mean([batch.fit_seconds for batch in batches]),
        retrieve_seconds=mean([batch.retrieve_seconds for batch in batches]),
    )
