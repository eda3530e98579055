"""One budget for many queries: each call goes where most is expected to be missing.

Some queries have their top k after a round, others lack half of it after a hundred calls. Who has a batch of queries to
answer, and pays for their calls together, finds more for the same price by letting the second kind have what the first
kind does not need. It takes a method that knows how sure it is (:mod:`crossknn.search.stopping`), though it may be too
sure of all: what matters is of which query it expects more.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import BoolArray, FloatArray
from crossknn.errors import InputError
from crossknn.scorers.base import checked_scores
from crossknn.search.rounds import Progress, Rounds, SearchMethod, Task
from crossknn.search.stopping import RecallTarget

_AT_LEAST = 25
"""CE calls that every query has, if the budget allows: after fewer, little can be told of what is missing."""

_MOST_TIMES = 5
"""Times the budget that one query may have: of some the expected recall hardly ever rises."""

_BETWEEN_LOOKS = 25
"""CE calls of a query between two looks at what recall to expect, which take longer than rounds do."""

_AT_ONCE = 4
"""One in so many queries has a round before they are compared again: fewer choose better, more fill batches."""


def run_sharing(method: SearchMethod, task: Task, budget: int, stop: RecallTarget) -> list[Progress]:
    """Spend a budget of CE calls for each query, but not on each.

    In turns, the quarter of the queries with the lowest expected recall has a round, as large as in a search with this
    budget, though 25 calls at most, and less where another query's ``stop.k`` scores would have to pay for it. Where
    the budget is no more than ``stop.k`` or 25, every query has about the same.

    Args:
        method: says what to score; it must know how sure it is.
        task: the queries.
        budget: CE calls per query in the mean, at least ``stop.k``.
        stop: tells what recall to expect; with a target, queries that reach it leave the rest to the others.

    Returns:
        What is known of each query, each as a batch of one: ``stop.k`` scores at least, where so many items are
        allowed, and five times the budget at most.

    Raises:
        InputError: the budget is below ``stop.k``, or the method cannot tell what recall to expect.
        ScorerError: the scorer failed.

    Cost: ``min(budget, allowed items)`` CE calls times the queries; fewer where all have enough.
    """
    if budget < stop.k:
        raise InputError(f"budget is {budget}, but k={stop.k} hits need at least as many cross-encoder calls")
    n_queries, n_items = task.first_stage_scores.shape
    n_allowed = n_items if task.allowed is None else int(task.allowed.sum())
    left, lacking = n_queries * min(budget, n_allowed), np.full(n_queries, min(stop.k, n_allowed))
    most, size = _MOST_TIMES * budget, -(-budget // method.rounds)
    searches = [
        Rounds(method, task.rows(np.array([row])), most, stop=_Seldom(stop), round_size=size)
        for row in range(n_queries)
    ]
    had = [(0, 0.0)] * n_queries
    while True:
        going = sorted((row for row in range(n_queries) if not searches[row].done), key=lambda row: had[row])
        asked = []
        for row in going[: -(-len(going) // _AT_ONCE)]:
            at_most = left - int(lacking.sum() - lacking[row])
            if not at_most:
                break
            columns = searches[row].ask(at_most)[1]
            asked.append((row, columns))
            left, lacking[row] = left - len(columns), max(0, lacking[row] - len(columns))
        if not asked:
            return [
                _told(search.progress()[0], task.rows(np.array([row])), stop) for row, search in enumerate(searches)
            ]
        rows = np.repeat([row for row, _ in asked], [len(columns) for _, columns in asked])
        scores = checked_scores(task.scorer, task.queries, rows, np.concatenate([columns for _, columns in asked]))
        for row, _ in asked:
            searches[row].tell(scores[rows == row])
            had[row] = _had(searches[row], max(stop.k, _AT_LEAST))


def _had(search: Rounds, least: int) -> tuple[int, float]:
    """How much a query has had: what all have before any has more, then the recall that is expected of it."""
    (known,) = search.progress()
    assert known.expected_recall is not None
    return min(known.indices.shape[1], least), float(known.expected_recall[0])


def _told(known: Progress, task: Task, stop: RecallTarget) -> Progress:
    """With what is expected of all its scores, which may have been looked at some rounds ago."""
    known.expected_recall = stop.expected_recall(task, known)
    return known


@dataclass(frozen=True)
class _Seldom:
    """A target that is looked at now and then (see :class:`~crossknn.search.rounds.Stop`)."""

    target: RecallTarget

    def check(self, task: Task) -> None:
        self.target.check(task)

    def expected_recall(self, task: Task, progress: Progress) -> FloatArray:
        now, last = progress.scores.shape[1], progress.rounds[-1].calls
        if progress.expected_recall is not None and now // _BETWEEN_LOOKS == (now - last) // _BETWEEN_LOOKS:
            return progress.expected_recall
        return self.target.expected_recall(task, progress)

    def enough(self, progress: Progress) -> BoolArray:
        return self.target.enough(progress)
