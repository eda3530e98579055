"""Retrieve and rerank: what everyone does, and the baseline (RnR in the paper)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from crossknn.search.rounds import Progress, Proposal, Task
from crossknn.vectors import top_k


@dataclass(frozen=True)
class Rerank:
    """Score the first stage's best items, in one round."""

    rounds: ClassVar[int] = 1

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """See :class:`~crossknn.search.rounds.SearchMethod`."""
        return propose_by_first_stage(task, progress, size)


def propose_by_first_stage(task: Task, progress: Progress, size: int) -> Proposal:
    """The unseen items that the first stage scores highest; equal ones by position."""
    rows = zip(task.first_stage_scores, progress.unseen, strict=True)
    return Proposal(np.array([top_k(scores, size, unseen) for scores, unseen in rows]))
