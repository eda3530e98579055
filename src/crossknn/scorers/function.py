"""Any Python function as a scorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, ScorerError
from crossknn.scorers.base import Fingerprint


class FunctionScorer:
    """Scores pairs with a function of yours.

    Example:
        >>> scorer = FunctionScorer(lambda pairs: [len(set(q) & set(i)) for q, i in pairs], name="shared-letters")
        >>> scorer.prepare(["bed", "cat"]).score(["bad"], np.array([0, 0]), np.array([0, 1]))
        array([2., 1.])

    Args:
        function: takes a list of (query, item) text pairs, returns one number per pair, higher is better.
        name: identifies the function and its version; stored scores are reused under the same name.
        batch_size: pairs per call of ``function``.
    """

    def __init__(
        self, function: Callable[[Sequence[tuple[str, str]]], Sequence[float]], *, name: str, batch_size: int = 1024
    ) -> None:
        if not name:
            raise InputError("a function scorer needs a name: stored scores are kept apart by it")
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        self._function = function
        self._batch_size = batch_size
        self.fingerprint = Fingerprint(f"function:{name}")

    def prepare(self, items: Sequence[str]) -> _BoundFunction:
        """Keep the items. Costs no call."""
        return _BoundFunction(self._function, self._batch_size, items)


@dataclass(frozen=True)
class _BoundFunction:
    function: Callable[[Sequence[tuple[str, str]]], Sequence[float]]
    batch_size: int
    items: Sequence[str]

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        pairs = [(queries[q], self.items[i]) for q, i in zip(query_indices, item_indices, strict=True)]
        batches = (pairs[start : start + self.batch_size] for start in range(0, len(pairs), self.batch_size))
        scores: list[float] = []
        for batch in batches:
            found = list(self.function(batch))
            if len(found) != len(batch):
                raise ScorerError(f"the scorer's function returned {len(found)} scores for {len(batch)} pairs")
            scores += found
        return np.array(scores, dtype=np.float64)
