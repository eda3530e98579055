"""No first stage: random scores, the floor that every other one is measured against."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.first_stage.base import Kept


class RandomFirstStage:
    """Scores drawn from the seed and the query's text, so that a query gets the same ones in any batch.

    Raises:
        InputError: ``seed`` is below 0.
    """

    def __init__(self, seed: int = 0) -> None:
        if seed < 0:
            raise InputError(f"seed must be 0 or more, got {seed}")
        self._seed = seed
        self.fingerprint = f"random:{seed}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> _BoundRandom:
        """Nothing to do but count the items."""
        return _BoundRandom(self._seed, len(items))


class _BoundRandom:
    def __init__(self, seed: int, n_items: int) -> None:
        self._seed, self._n_items = seed, n_items

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items), uniform in [0, 1)."""
        seeds = [int.from_bytes(hashlib.sha256(query.encode()).digest()[:8], "big") for query in queries]
        rows = [np.random.default_rng((self._seed, seed)).random(self._n_items, dtype=np.float32) for seed in seeds]
        return np.array(rows, dtype=np.float32).reshape(len(queries), self._n_items)
