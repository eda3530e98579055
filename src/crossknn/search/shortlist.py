"""Searching only among what the first stage likes (paper, section 3: its top 10K of five million items)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from crossknn.errors import InputError
from crossknn.search.rounds import Progress, Proposal, SearchMethod, Task
from crossknn.vectors import top_k


@dataclass(frozen=True)
class Shortlist:
    """Any method, but each query sees only the first stage's best allowed items.

    Attributes:
        method: what chooses among them.
        size: how many. A budget above it looks as far down as it must.
    """

    method: SearchMethod
    size: int = 10_000

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"a shortlist needs at least one item, got size={self.size}")

    @property
    def rounds(self) -> int:
        """The method's."""
        return self.method.rounds

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`."""
        room = max(self.size, progress.indices.shape[1] + size)
        unseen = np.zeros_like(progress.unseen)
        for row, scores in enumerate(task.first_stage_scores):
            allowed = progress.unseen[row].copy()
            allowed[progress.indices[row]] = True
            unseen[row, top_k(scores, min(room, int(allowed.sum())), allowed)] = True
        unseen &= progress.unseen
        return self.method.propose(task, replace(progress, unseen=unseen), size)
