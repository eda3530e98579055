"""Which train queries to pay for, where not all can be: those that stand for the others."""

from __future__ import annotations

import numpy as np

from crossknn.arrays import FloatArray, IntArray


def representatives(vectors: FloatArray, n: int) -> IntArray:
    """Queries such that every query has one near it: by greedy facility location (Nemhauser, Wolsey and Fisher, 1978),
    which finds at least 63% of the similarity that the best choice has.

    Args:
        vectors: (n_queries, d); their cosines say how near two are.
        n: how many, at most ``n_queries``.

    Returns:
        (n,) positions, ascending.

    Cost: ``4 n_queries^2`` bytes, and some seconds for a thousand of four thousand queries.
    """
    unit = np.asarray(vectors, dtype=np.float32)
    unit = unit / np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    alike = unit @ unit.T
    near = np.full(len(unit), -1, dtype=np.float32)  # of each query, the nearest one chosen so far
    chosen = np.zeros(len(unit), dtype=bool)
    for _ in range(n):
        gains = np.maximum(alike, near).sum(axis=1)
        gains[chosen] = -np.inf
        best = int(np.argmax(gains))
        chosen[best], near = True, np.maximum(near, alike[best])
    return np.flatnonzero(chosen)
