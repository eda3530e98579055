"""Which (train query, item) pairs to pay for next, given what the scores so far have taught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crossknn.scores import Pairs, ScoreMatrix
from crossknn.search.rounds import Progress, RoundCost, SearchMethod, Task


def next_pairs(method: SearchMethod, task_of: Callable[[int], Task], scores: ScoreMatrix, each: int) -> Pairs:
    """For every train query the pairs that its own search would ask for next, had it seen its scores so far.

    A plan made from the first stage alone looks where the first stage does; a search looks where the cross-encoder has
    been found to give high scores, which is where later searches will have to tell items apart.

    Args:
        method: what searches.
        task_of: a train query's position to its task, with the item vectors learned from ``scores``.
        scores: (n_queries, n_items) what was observed.
        each: pairs per query; fewer where fewer items are left. Queries without a score are left out.

    Returns:
        Pairs none of which is in ``scores``.

    Cost: no CE call here; scoring them costs ``len(pairs)``.
    """
    n_items = scores.shape[1]
    chosen = [np.empty(0, dtype=np.int64)]
    for query, cells in scores.by_query():
        seen = scores.item_indices[cells]
        unseen = np.ones((1, n_items), dtype=bool)
        unseen[0, seen] = False
        known = Progress(
            indices=seen[None],
            scores=scores.values[cells][None],
            predicted=np.full((1, len(seen)), np.nan),
            unseen=unseen,
            rounds=[RoundCost(len(seen), 0.0, 0.0, 0.0)],
        )
        size = min(each, n_items - len(seen))
        if size > 0:
            chosen.append(query * n_items + method.propose(task_of(query), known, size).indices[0])
    return Pairs.of(np.concatenate(chosen), n_items)
