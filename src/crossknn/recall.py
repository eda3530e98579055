"""How much of the k best of some scores others hold."""

from __future__ import annotations

import numpy as np

from crossknn.arrays import FloatArray


def share_of_best(scores: FloatArray, found: FloatArray, k: int) -> float:
    """The share of the k highest of some scores that is among others, which are some of them.

    Tie-aware: one that ties with the k-th counts as one of the k, but no more of them than there are places.

    Args:
        scores: (n,) all, n at least k.
        found: (n_found,) some of these.
        k: at least 1.
    """
    edge = kth_best(scores, k)
    places = k - int(np.sum(scores > edge))
    return (int(np.sum(found > edge)) + min(places, int(np.sum(found == edge)))) / k


def kth_best(scores: FloatArray, k: int) -> float:
    """The k-th highest score."""
    return float(np.partition(scores, len(scores) - k)[len(scores) - k])
