"""Retrieve and rerank: what everyone does, and the baseline (RnR in the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from crossknn.errors import InputError
from crossknn.search.rounds import Progress, Proposal, Task
from crossknn.vectors import inner_products, top_k


@dataclass(frozen=True)
class Rerank:
    """Score the best items by a cheap score, in one round.

    Attributes:
        by: the cheap score: the first stage's (RnR_DE, RnR_BM25), or the inner products of the index's item vectors
            with the query's (RnR_MF: a dual encoder that has learned from the cross-encoder).
    """

    by: Literal["first stage", "item vectors"] = "first stage"
    rounds: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if self.by not in ("first stage", "item vectors"):
            raise InputError(f"by must be 'first stage' or 'item vectors', got {self.by!r}")

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`.

        Raises:
            InputError: by item vectors, and there are none, or none of the query in their space.
        """
        propose = propose_by_first_stage if self.by == "first stage" else propose_by_item_vectors
        return propose(task, progress, size)


def propose_by_first_stage(task: Task, progress: Progress, size: int) -> Proposal:
    """The unseen items that the first stage scores highest; equal ones by position."""
    rows = zip(task.first_stage_scores, progress.unseen, strict=True)
    return Proposal(np.array([top_k(scores, size, unseen) for scores, unseen in rows]))


def propose_by_item_vectors(task: Task, progress: Progress, size: int) -> Proposal:
    """The unseen items whose vectors the query's, as the dual encoder gives it, likes best.

    Raises:
        InputError: the index has no item vectors, or the query none in their space.
    """
    items = task.item_model
    if items is None or task.query_vectors is None:
        raise InputError("there are no query vectors in the space of the item vectors: give a dense first stage")
    approximate = inner_products(task.query_vectors, items.vectors) + items.beside(task.first_stage_scores)
    rows = zip(approximate, progress.unseen, strict=True)
    return Proposal(np.array([top_k(scores, size, unseen) for scores, unseen in rows]))
