"""The best items of a query whose vector moves a little at a time, without all inner products each time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.vectors.exact import inner_products, top_k

_ROWS = 256
"""Item vectors gathered at a time: they stay in the cache for their products."""
_LIKELY = 4
"""Times ``k`` items are looked at first, to know what the k best have at least."""
_FEW = 1 / 3
"""Share of the items above which a pass over all of them, which lie side by side, takes no longer (512 wide)."""
_SAMPLE = 4096
"""Items that tell beforehand, by the edge of last time, whether that share will be exceeded."""
_MOST_VECTORS = 256
_ROUNDING = 1e-5
"""Allowance for what single precision rounds off, as a share of the numbers that went into a score."""


class MovingQuery:
    """What a query's vector says of all items, of each as of when it was last looked at.

    ``|v u - v u'| <= |v| |u - u'|`` (Cauchy and Schwarz), so an item that was far below has not come up since: only
    what may be among the best now is looked at again. So does Hamerly's k-means with centres that move (*Making k-means
    even faster*, SDM 2010). What is found is what all inner products would find, but for rounding.

    Args:
        items: (n_items, d), may be memory-mapped.
        lengths: (n_items,) of these vectors.
        beside: (n_items,) what is added to their inner products, whatever the vector.
    """

    def __init__(self, items: FloatArray, lengths: FloatArray, beside: FloatArray) -> None:
        self.items = items
        self._lengths, self._beside = lengths, beside
        self._vectors: list[FloatArray] = []
        self._scores: FloatArray = np.empty(0, dtype=np.float32)
        self._looked = np.empty(0, dtype=np.uint8)
        self._edge = np.inf  # what the best had at least, when they were last looked for

    def best_of_all(
        self, vector: FloatArray, products: FloatArray, k: int, allowed: BoolArray
    ) -> tuple[IntArray, FloatArray]:
        """As :func:`best_of_each`, starting anew from a (d,) vector and its (n_items,) inner products, which are
        changed."""
        products += self._beside
        self._vectors, self._scores = [vector], products
        self._looked = np.zeros(len(products), dtype=np.uint8)
        best = top_k(products, k, allowed)
        self._edge = min(products[best], default=np.inf)
        return best, products[best]

    def best(self, vector: FloatArray, k: int, allowed: BoolArray) -> tuple[IntArray, FloatArray] | None:
        """As :func:`best_of_each`; None where so many items may be among them that it had better look at all."""
        if not self._vectors or len(self._vectors) == _MOST_VECTORS or _LIKELY * k > _FEW * len(self._scores):
            return None
        if not np.array_equal(vector, self._vectors[-1]):
            self._vectors.append(vector)
        some = slice(None, None, max(1, len(self._scores) // _SAMPLE))
        if np.mean(self._highest(some) >= self._edge) > _FEW:
            return None
        highest = self._highest(slice(None))
        highest[~allowed] = -np.inf
        likely = np.argpartition(highest, len(highest) - _LIKELY * k)[len(highest) - _LIKELY * k :]
        likely = likely[allowed[likely]]
        self._look(likely)
        known = highest[likely] = self._scores[likely]
        edge = np.partition(known, len(known) - k)[len(known) - k] if k < len(known) else -np.inf
        may = np.flatnonzero((highest >= edge) & allowed)
        if len(may) > _FEW * len(highest):
            return None
        self._look(may)
        among = may[top_k(self._scores[may], k)]
        self._edge = edge
        return among, self._scores[among]

    def _highest(self, some: slice) -> FloatArray:
        """What some items score at most by the vector of now."""
        vectors = np.array(self._vectors)
        moved = np.linalg.norm(vectors - vectors[-1], axis=1)
        moved += _ROUNDING * np.linalg.norm(vectors, axis=1).max()
        highest: FloatArray = self._lengths[some] * moved.astype(np.float32)[self._looked[some]]
        highest += self._scores[some]
        highest += np.float32(_ROUNDING) * np.abs(self._scores[some])
        return highest

    def _look(self, rows: IntArray) -> None:
        """What the vector of now says of some items."""
        now = len(self._vectors) - 1
        rows = rows[self._looked[rows] != now]
        vector = np.ascontiguousarray(self._vectors[now], dtype=self.items.dtype)
        with np.errstate(invalid="ignore"):  # as in inner_products
            for start in range(0, len(rows), _ROWS):
                some = rows[start : start + _ROWS]
                self._scores[some] = self.items[some] @ vector + self._beside[some]
        self._looked[rows] = now


def best_of_each(
    queries: Sequence[MovingQuery], vectors: FloatArray, k: int, allowed: BoolArray
) -> list[tuple[IntArray, FloatArray]]:
    """The best items of some queries over the same items; those that have to look at all of them do so together.

    Args:
        queries: each with what its vectors before said.
        vectors: (n_queries, d) theirs now.
        k: how many; fewer come back if fewer are allowed.
        allowed: (n_queries, n_items).

    Returns:
        For each query (k,) items, best first, equal scores by position; and (k,) their scores.
    """
    found = [query.best(vector, k, of_query) for query, vector, of_query in zip(queries, vectors, allowed, strict=True)]
    wide = [row for row, best in enumerate(found) if best is None]
    if wide:
        for row, products in zip(wide, inner_products(vectors[wide], queries[0].items), strict=True):
            found[row] = queries[row].best_of_all(vectors[row], products.copy(), k, allowed[row])
    return [best for best in found if best is not None]
