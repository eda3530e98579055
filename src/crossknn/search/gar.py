"""GAR, graph-based adaptive reranking (MacAvaney, Tonellotto, Macdonald, CIKM 2022): a rival of AXN."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization.item_model import ItemModel
from crossknn.search.rerank import propose_by_first_stage
from crossknn.search.rounds import Progress, Proposal, Task
from crossknn.vectors import inner_products, top_k

_BLOCK = 256
"""Items whose neighbours are looked up at once: bounds the memory at so many rows of inner products."""


@dataclass(frozen=True)
class GAR:
    """Score the first stage's best and the neighbours of what scored well, in turns (algorithm 1 of the GAR paper).

    Rounds 1, 3, 5, ... take the first stage's best unseen items. Rounds 2, 4, ... take those of the frontier: unseen
    neighbours, in a graph of the items, of items scored so far, each with the best CE score among the items it is a
    neighbour of; equal ones in the order they came in, nearer neighbours first. A frontier too small for its round
    is filled up by the first stage.

    The paper scores batches of 16, so more rounds for larger budgets; here a budget is divided into ``rounds`` as for
    all methods, which is the same at ``rounds = budget / 16``. The graph holds the ``neighbours`` nearest items by the
    cosine of the index's item vectors. It is made as the search goes, for items that were scored, and kept for as long
    as the item vectors are.

    Attributes:
        neighbours: of each item in the graph.
        rounds: rounds, half of them from the frontier; 1 is reranking.
    """

    neighbours: int = 16
    rounds: int = 20

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise InputError(f"neighbours must be at least 1, got {self.neighbours}")
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds}")

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`.

        Raises:
            InputError: the index has no item vectors.

        Cost: no CE call; an inner product with every item for each scored item that is new to the graph.
        """
        if task.item_model is None:
            raise InputError("GAR needs neighbours, and this index has no item vectors: give a dense first stage")
        if len(progress.rounds) % 2 == 0:
            return propose_by_first_stage(task, progress, size)
        graph = CorpusGraph.of(task.item_model, self.neighbours)
        rounds = progress.round_of_column()
        chosen = []
        for scored, scores, unseen, first in zip(
            progress.indices, progress.scores, progress.unseen, task.first_stage_scores, strict=True
        ):
            order = np.lexsort((-scores, rounds))
            frontier = _frontier(graph.neighbours(scored[order]), scores[order], unseen)[:size]
            others = unseen.copy()
            others[frontier] = False
            chosen.append(np.concatenate([frontier, top_k(first, size - len(frontier), others)]))
        return Proposal(np.array(chosen))


def _frontier(neighbours: IntArray, scores: FloatArray, unseen: BoolArray) -> IntArray:
    """Unseen neighbours of scored items, in the order they are to be scored.

    Args:
        neighbours: (n_scored, k) of the scored items, in the order those came in.
        scores: (n_scored,) of the scored items.
        unseen: (n_items,).
    """
    priority = np.full(len(unseen), -np.inf)
    np.maximum.at(priority, neighbours, scores[:, None])
    items, arrival = np.unique(neighbours, return_index=True)
    waiting = unseen[items]
    items, arrival = items[waiting], arrival[waiting]
    return items[np.lexsort((arrival, -priority[items]))]


class CorpusGraph:
    """Each item's nearest others by cosine, nearest first, equal ones by position; found when first asked for.

    Args:
        vectors: (n_items, d).
        k: neighbours of each item; all others where there are fewer.
    """

    def __init__(self, vectors: FloatArray, k: int) -> None:
        self._vectors = vectors
        self._norms = np.maximum(np.linalg.norm(vectors, axis=1), np.finfo(vectors.dtype).tiny)
        self._neighbours = np.empty((len(vectors), min(k, len(vectors) - 1)), dtype=np.int64)
        self._known = np.zeros(len(vectors), dtype=bool)

    @classmethod
    def of(cls, items: ItemModel, k: int) -> CorpusGraph:
        """The graph of an index's item vectors: one for all searches, forgotten with the vectors."""
        graphs = _graphs.setdefault(items, {})
        if k not in graphs:
            graphs[k] = cls(items.vectors, k)
        return graphs[k]

    def neighbours(self, items: IntArray) -> IntArray:
        """(len(items), k) neighbours of some items. Cost: an inner product with every item for each new one."""
        new = np.unique(items[~self._known[items]])
        for start in range(0, len(new), _BLOCK):
            block = new[start : start + _BLOCK]
            cosines = inner_products(self._vectors[block], self._vectors) / self._norms
            cosines[np.arange(len(block)), block] = -np.inf
            self._neighbours[block] = [top_k(row, self._neighbours.shape[1]) for row in cosines]
        self._known[new] = True
        found: IntArray = self._neighbours[items]
        return found


_graphs: weakref.WeakKeyDictionary[ItemModel, dict[int, CorpusGraph]] = weakref.WeakKeyDictionary()
