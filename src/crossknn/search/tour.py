"""TouR, test-time optimisation of the query vector (Sung et al., Findings of ACL 2023): a rival of AXN."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.factorization import ItemModel
from crossknn.search.rerank import propose_by_first_stage
from crossknn.search.rounds import Progress, Proposal, Task
from crossknn.vectors import inner_products, top_k


@dataclass(frozen=True)
class TouR:
    """One gradient step on the dual encoder's query vector a round, on the items of that round.

    Round 1 takes the first stage's best. With ``a`` the normalised CE scores of a round's items and ``V`` their
    vectors, a step lowers ``-sum softmax(a) log softmax(V u)`` (``ce``) or ``mean (V u - a)^2`` (``mse``); the next
    round scores the unseen items with the highest ``V u``.

    Attributes:
        loss: "ce" or "mse".
        rounds: rounds, and one gradient step between each two.
        step: the learning rate.
    """

    loss: Literal["ce", "mse"] = "ce"
    rounds: int = 5
    step: float = 0.1

    def __post_init__(self) -> None:
        if self.loss not in ("ce", "mse"):
            raise InputError(f"loss must be 'ce' or 'mse', got {self.loss!r}")
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, got {self.rounds}")
        if not 0 < self.step < np.inf:
            raise InputError(f"step must be finite and above 0, got {self.step}")

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`.

        Raises:
            InputError: the index has no item vectors, the first stage has no query vectors in their space, or the steps
                are so large that the vector does not stay finite.
        """
        items = task.item_model
        if items is None or task.query_vectors is None:
            raise InputError("TouR starts from the query's vector: give a dense first stage, or use another method")
        if not progress.rounds:
            return propose_by_first_stage(task, progress, size)
        start = time.perf_counter()
        beside = np.broadcast_to(items.beside(task.first_stage_scores), task.first_stage_scores.shape)
        vectors = np.array(
            [self._stepped(items, progress, row, u, beside[row]) for row, u in enumerate(task.query_vectors)]
        )
        if not np.isfinite(vectors).all():
            raise InputError(f"the query's vector grows without end in steps of {self.step}; set a smaller step")
        solve_seconds = time.perf_counter() - start
        approximate = inner_products(vectors, items.vectors) + beside
        chosen = np.array([top_k(a, size, unseen) for a, unseen in zip(approximate, progress.unseen, strict=True)])
        predicted = np.take_along_axis(approximate, chosen, axis=1).astype(np.float64)
        return Proposal(chosen, items.normalisation.invert(predicted), solve_seconds)

    def _stepped(
        self, items: ItemModel, progress: Progress, row: int, query_vector: FloatArray, beside: FloatArray
    ) -> FloatArray:
        """The query's vector after a step for each round so far."""
        u: FloatArray = np.asarray(query_vector, dtype=np.float64)
        rounds = progress.round_of_column()
        for number in range(1, len(progress.rounds) + 1):
            seen = progress.indices[row, rounds == number]
            scores = items.normalisation.apply(progress.scores[row, rounds == number])
            matrix = np.asarray(items.vectors[seen], dtype=np.float64)
            predicted = matrix @ u + beside[seen]
            if self.loss == "ce":
                slope = _softmax(predicted) - _softmax(scores)
            else:
                slope = 2 / len(seen) * (predicted - scores)
            u = u - self.step * (slope @ matrix)
        return u


def _softmax(values: FloatArray) -> FloatArray:
    powers = np.exp(values - values.max())
    shares: FloatArray = powers / powers.sum()
    return shares
