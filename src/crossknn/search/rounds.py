"""The search loop: rounds of CE calls within a budget, for a batch of queries at once.

A method only says which items to score next; this loop scores them, keeps the books and holds the budget, so that no
method can overspend or score a pair twice.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.item_model import ItemModel
from crossknn.scorers.base import BoundScorer, checked_scores
from crossknn.search.sizes import BETWEEN_STOPS, growing_sizes, round_sizes


@dataclass(frozen=True)
class Task:
    """A batch of queries, and all that a method may look at without paying.

    Attributes:
        queries: query texts.
        scorer: bound to the items.
        first_stage_scores: (n_queries, n_items).
        item_model: the index's item vectors; None if there are none.
        query_vectors: (n_queries, d) the query vectors ``u_param`` that the dual encoder expects, in the space of the
            item vectors; None if there are none.
        allowed: (n_items,) mask of the items that may be scored and returned; None allows all.
    """

    queries: Sequence[str]
    scorer: BoundScorer
    first_stage_scores: FloatArray
    item_model: ItemModel | None = None
    query_vectors: FloatArray | None = None
    allowed: BoolArray | None = None

    def rows(self, kept: IntArray) -> Task:
        """Some of the queries."""
        return replace(
            self,
            queries=[self.queries[row] for row in kept],
            first_stage_scores=self.first_stage_scores[kept],
            query_vectors=None if self.query_vectors is None else self.query_vectors[kept],
        )


@dataclass(frozen=True)
class Proposal:
    """The items a method wants scored next.

    Attributes:
        indices: (n_queries, size) items, best first, each unseen.
        predicted: (n_queries, size) CE scores expected of them, or None if the method predicts none.
        solve_seconds: time spent on fitting query vectors, for the whole batch.
    """

    indices: IntArray
    predicted: FloatArray | None = None
    solve_seconds: float = 0.0


@dataclass
class Progress:
    """What is known so far. Every query of a batch has had the same number of items scored.

    Attributes:
        indices: (n_queries, n_scored) items scored, in the order they were.
        scores: (n_queries, n_scored) their CE scores.
        predicted: (n_queries, n_scored) what was expected of them; NaN where nothing was.
        unseen: (n_queries, n_items) items that are allowed and not scored yet.
        rounds: what each round cost.
        expected_recall: (n_queries,) the share of the exact top k expected to be among the items scored; None in a
            search that does not ask.
        memory: (n_queries) whatever the method need not work out twice about a query; it stays as scores come in.
    """

    indices: IntArray
    scores: FloatArray
    predicted: FloatArray
    unseen: BoolArray
    rounds: list[RoundCost] = field(default_factory=list)
    expected_recall: FloatArray | None = None
    memory: list[object] = field(default_factory=list)

    def rows(self, kept: IntArray) -> Progress:
        """That of some of the queries; what is scored from now on changes only one of the two."""
        return Progress(
            self.indices[kept],
            self.scores[kept],
            self.predicted[kept],
            self.unseen[kept],
            list(self.rounds),
            None if self.expected_recall is None else self.expected_recall[kept],
            [self.memory[row] for row in kept] if self.memory else [],
        )

    def round_of_column(self) -> IntArray:
        """(n_scored,) the round (from 1) that scored each column."""
        return np.repeat(np.arange(1, len(self.rounds) + 1), [cost.calls for cost in self.rounds])


@dataclass(frozen=True)
class RoundCost:
    """One round, per query: CE calls, and the batch's time divided by its queries.

    Attributes:
        calls: CE calls of each query in this round.
        solve_seconds: fitting the query vector.
        retrieve_seconds: approximate scores of all items, and the best of them.
        score_seconds: the cross-encoder.
    """

    calls: int
    solve_seconds: float
    retrieve_seconds: float
    score_seconds: float


class SearchMethod(Protocol):
    """Says which items to score next."""

    @property
    def rounds(self) -> int:
        """Rounds that a budget is divided into, where nothing ends the search before (:func:`growing_sizes`)."""
        ...

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """``size`` unseen items for every query; at least that many are unseen."""
        ...


class Stop(Protocol):
    """Says which queries have found enough."""

    def check(self, task: Task) -> None:
        """Called before anything is paid.

        Raises:
            InputError: nothing can be told of such a task.
        """
        ...

    def expected_recall(self, task: Task, progress: Progress) -> FloatArray:
        """(n_queries,) share of each query's exact top k that is expected to be among the items scored.

        ``progress.expected_recall`` is still that of the round before.
        """
        ...

    def enough(self, progress: Progress) -> BoolArray:
        """(n_queries,) which queries stop, now that ``progress.expected_recall`` is known."""
        ...


class Rounds:
    """A search under way: it asks for the CE scores of a round's pairs, and is told them.

    Whoever holds it decides where and with what else the pairs are scored; :func:`run_rounds` does it on the spot, a
    service together with the pairs of other searches.
    """

    def __init__(
        self,
        method: SearchMethod,
        task: Task,
        budget: int,
        *,
        stop: Stop | None = None,
        max_seconds: float = math.inf,
        at_least: int = 1,
        round_size: int | None = None,
    ) -> None:
        """Spend a budget of CE calls on every query of a task.

        Args:
            method: says what to score.
            task: the queries.
            budget: CE calls per query, at least 1. Items that run out end the search earlier.
            stop: ends a query's search as soon as it has found enough; None spends the budget.
            max_seconds: no round begins that, as long for a call as the last one, would end later than this after now.
            at_least: CE calls of each query that time does not cut: the hits that are wanted.
            round_size: CE calls of a round at most; None takes the method's rounds.

        Raises:
            InputError: the budget is below 1, or ``stop`` cannot tell of this task.

        Cost: at most ``min(budget, allowed items)`` CE calls per query, and exactly these without ``stop`` and
        ``max_seconds``. In rounds as equal as can be; with ``stop`` in :func:`growing_sizes`, or, where ``round_size``
        is given, in equal ones of 25 calls at most.
        """
        if budget < 1:
            raise InputError(f"budget must be at least 1 cross-encoder call, got {budget}")
        if stop is not None:
            stop.check(task)
        n_queries, n_items = task.first_stage_scores.shape
        allowed = np.ones(n_items, dtype=bool) if task.allowed is None else task.allowed
        spent = min(budget, int(allowed.sum()))
        self._method, self._stop = method, stop
        if round_size is not None:
            largest = round_size if stop is None else min(round_size, BETWEEN_STOPS)
            self._sizes = round_sizes(spent, -(-spent // largest))
        elif stop is not None:
            self._sizes = growing_sizes(spent, method.rounds)
        else:
            self._sizes = round_sizes(spent, method.rounds)
        self._task = task
        self._rows = np.arange(n_queries)
        self._progress = Progress(
            indices=np.empty((n_queries, 0), dtype=np.int64),
            scores=np.empty((n_queries, 0)),
            predicted=np.empty((n_queries, 0)),
            unseen=np.tile(allowed, (n_queries, 1)),
        )
        self._stopped: dict[int, Progress] = {}
        self._asked: tuple[Proposal, float, float] | None = None
        self._began = time.perf_counter()
        self._max_seconds, self._at_least = max_seconds, at_least

    @property
    def done(self) -> bool:
        """Nothing is left to score."""
        return not len(self._rows) or len(self._progress.rounds) == len(self._sizes)

    def ask(self, at_most: int | None = None) -> tuple[IntArray, IntArray]:
        """The pairs of the next round, (n_pairs,) each: positions in the task's queries, and in the items.

        Asking again before :meth:`tell` gives the same pairs.

        Args:
            at_most: CE calls of each query, at least 1; a larger round is cut in two, this one and the next.

        Raises:
            InputError: no round is left, or the method proposes what it must not, or cannot search this index.
        """
        if self.done:
            raise InputError("this search is done: there is nothing left to score")
        if self._asked is None:
            number = len(self._progress.rounds)
            size = self._sizes[number]
            if at_most is not None and at_most < size:
                self._sizes[number : number + 1] = at_most, size - at_most
                size = at_most
            start = time.perf_counter()
            proposal = self._method.propose(self._task, self._progress, size)
            end = time.perf_counter()
            _check_proposal(proposal, self._progress, (len(self._rows), size))
            self._asked = proposal, start, end
        indices = self._asked[0].indices
        return np.repeat(self._rows, indices.shape[1]), indices.ravel()

    def tell(self, scores: FloatArray) -> None:
        """The CE scores of the pairs asked for, in their order.

        Args:
            scores: (n_pairs,) finite raw logits.

        Raises:
            InputError: nothing was asked for, another number of scores was, or a score is not finite.
        """
        if self._asked is None:
            raise InputError("this search was told scores that it did not ask for")
        (proposal, start, proposed), progress = self._asked, self._progress
        n_queries, size = proposal.indices.shape
        if np.shape(scores) != (n_queries * size,):
            raise InputError(f"this search asked for {n_queries * size} scores, and was told {np.shape(scores)}")
        if not np.isfinite(scores).all():
            raise InputError("this search was told a score that is NaN or infinite")
        scored = time.perf_counter()
        np.put_along_axis(progress.unseen, proposal.indices, False, axis=1)
        predicted = np.full((n_queries, size), np.nan) if proposal.predicted is None else proposal.predicted
        progress.indices = np.hstack([progress.indices, proposal.indices])
        progress.scores = np.hstack([progress.scores, np.reshape(scores, (n_queries, size))])
        progress.predicted = np.hstack([progress.predicted, predicted])
        progress.rounds.append(
            RoundCost(
                calls=size,
                solve_seconds=proposal.solve_seconds / n_queries,
                retrieve_seconds=(proposed - start - proposal.solve_seconds) / n_queries,
                score_seconds=(scored - proposed) / n_queries,
            )
        )
        self._asked = None
        self._retire(round_seconds=scored - start)
        if self.done:
            self._progress.memory = []

    def progress(self) -> list[Progress]:
        """What is known so far of each of the task's queries, each as a batch of one."""
        running = {int(row): self._progress.rows(np.array([n])) for n, row in enumerate(self._rows)}
        known = running | self._stopped
        return [known[row] for row in range(len(known))]

    def _retire(self, round_seconds: float) -> None:
        """Take out the queries that have found enough, or all of them when time is up."""
        if self._stop is not None:
            progress = self._progress
            progress.expected_recall = self._stop.expected_recall(self._task, progress)
            self._keep(~self._stop.enough(progress))
        number, n_scored = len(self._progress.rounds), self._progress.scores.shape[1]
        if number < len(self._sizes) and n_scored >= self._at_least:
            next_seconds = round_seconds * self._sizes[number] / self._sizes[number - 1]
            if time.perf_counter() - self._began + next_seconds > self._max_seconds:
                self._keep(np.zeros(len(self._rows), dtype=bool))

    def _keep(self, kept: BoolArray) -> None:
        if kept.all():
            return
        for n in np.flatnonzero(~kept):
            self._stopped[int(self._rows[n])] = replace(self._progress.rows(np.array([n])), memory=[])
        rows = np.flatnonzero(kept)
        self._rows, self._task, self._progress = self._rows[rows], self._task.rows(rows), self._progress.rows(rows)


def run_rounds(method: SearchMethod, task: Task, budget: int) -> Progress:
    """Spend a budget of CE calls on every query, as :class:`Rounds` says.

    Raises:
        InputError: the budget is below 1.
        ScorerError: the scorer failed.

    Cost: exactly ``min(budget, allowed items)`` CE calls per query.
    """
    search = Rounds(method, task, budget)
    run(search, task)
    return search._progress


def check_searches(method: SearchMethod, task: Task, budget: int) -> None:
    """Search for a task's first query with a scorer that knows nothing: nothing is paid to find out.

    Raises:
        InputError: the method cannot search such a task.

    Cost: no CE call.
    """
    first = replace(task.rows(np.zeros(1, dtype=np.int64)), scorer=_NoScorer())
    run_rounds(method, first, budget)


class _NoScorer:
    """Stands in for the cross-encoder where a method is only tried."""

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        return np.zeros(len(item_indices))


def run(search: Rounds, task: Task) -> None:
    """Score on the spot whatever a search of a task asks for.

    Raises:
        ScorerError: the scorer failed.
    """
    while not search.done:
        rows, columns = search.ask()
        search.tell(checked_scores(task.scorer, task.queries, rows, columns))


def _check_proposal(proposal: Proposal, progress: Progress, shape: tuple[int, int]) -> None:
    """Methods are plug-ins: what they propose is checked before it is paid for."""
    if proposal.indices.shape != shape:
        raise InputError(f"the search method proposed items of shape {proposal.indices.shape}, {shape} was asked for")
    if not np.take_along_axis(progress.unseen, proposal.indices, axis=1).all():
        raise InputError("the search method proposed an item that was scored already, or is not allowed")
    if shape[1] > 1 and (np.diff(np.sort(proposal.indices, axis=1), axis=1) == 0).any():
        raise InputError("the search method proposed an item twice in one round")
