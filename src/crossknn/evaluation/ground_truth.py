"""Ground truth: the cross-encoder itself, by brute force over all items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.scorers import Scorer
from crossknn.scores import Pairs, collect_scores
from crossknn.scores.ledger import ProgressCallback


def exact_scores(
    queries: Sequence[str],
    items: Sequence[str],
    scorer: Scorer,
    folder: Path,
    *,
    progress: ProgressCallback | None = None,
) -> FloatArray:
    """CE scores of every (query, item) pair, kept in a folder; run again, it goes on where it stopped.

    Args:
        queries: query texts.
        items: item texts.
        scorer: the cross-encoder.
        folder: of the ledger; one folder holds one set of queries, items and scorer.
        progress: told of the calls done.

    Returns:
        (n_queries, n_items) float64.

    Cost: ``n_queries * n_items`` CE calls, less those that are in the folder.
    """
    flat = np.arange(len(queries) * len(items), dtype=np.int64)
    pairs = Pairs(*np.divmod(flat, len(items)))
    return collect_scores(pairs, queries, items, scorer, folder, progress=progress).reshape(len(queries), len(items))
