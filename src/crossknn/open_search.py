"""A search that is gone through round by round, and what is told of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.results import Hit, ScoredItem, SearchResult
from crossknn.search import Progress, Rounds, Task
from crossknn.vectors import ranks_of

if TYPE_CHECKING:
    from crossknn.index import Index


class OpenSearch:
    """One query's search under way; made by :meth:`Index.open_search`.

    Attributes:
        query: its text.
        index: what is searched.
    """

    def __init__(self, index: Index, task: Task, rounds: Rounds, k: int) -> None:
        self.query = task.queries[0]
        self.index, self._task, self._rounds, self._k = index, task, rounds, k

    @property
    def done(self) -> bool:
        """Whether nothing is left to score: the budget, the items or the time are spent, or the target is met."""
        return self._rounds.done

    def ask(self) -> IntArray:
        """(size,) positions of the items to be scored next, best first; the same until told their scores.

        Raises:
            InputError: the search is done, or its method cannot search this index.
        """
        return self._rounds.ask()[1]

    def tell(self, scores: FloatArray) -> None:
        """The items' CE scores, (size,) finite raw logits in the order asked for.

        Raises:
            InputError: nothing was asked for, another number of scores was, or a score is not finite.
        """
        self._rounds.tell(scores)

    def result(self) -> SearchResult:
        """The best of what was scored so far."""
        return results_of(self.index, self._task, self._rounds.progress(), self._k)[0]

    def scored(self) -> list[ScoredItem]:
        """Every item scored so far, in the order they were."""
        (known,) = self._rounds.progress()
        columns = zip(known.indices[0], known.scores[0], known.predicted[0], known.round_of_column(), strict=True)
        return [
            ScoredItem(self.index.item_ids[i], float(s), None if np.isnan(p) else float(p), int(r))
            for i, s, p, r in columns
        ]


def results_of(index: Index, task: Task, progress: Sequence[Progress], k: int) -> list[SearchResult]:
    """The best k of what was scored of each of a task's queries, each of them a batch of one."""
    results = []
    for row, (query, known) in enumerate(zip(task.queries, progress, strict=True)):
        (indices,), (scores,), rounds = known.indices, known.scores, known.round_of_column()
        best = np.lexsort((indices, -scores))[:k]
        ranks = ranks_of(task.first_stage_scores[row], indices[best], task.allowed)
        hits = tuple(
            Hit(index.item_ids[i], float(s), int(r), int(rank), index.items[i], dict(index.metadata[i]))
            for i, s, r, rank in zip(indices[best], scores[best], rounds[best], ranks, strict=True)
        )
        expected = None if known.expected_recall is None else float(known.expected_recall[0])
        results.append(SearchResult(query, hits, len(indices), tuple(known.rounds), expected))
    return results
