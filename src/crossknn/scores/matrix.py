"""The sparse score matrix G (paper, section 2.1): what is stored was observed, what is absent is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.scores.plan import Pairs


@dataclass(frozen=True)
class ScoreMatrix:
    """Observed CE scores of (query, item) pairs. A stored zero is a score of zero.

    Attributes:
        query_indices: (n_observed,) rows, ascending.
        item_indices: (n_observed,) columns, ascending within a row, no pair twice.
        values: (n_observed,) float64 scores.
        shape: (n_queries, n_items).
    """

    query_indices: IntArray
    item_indices: IntArray
    values: FloatArray
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        if not len(self.query_indices) == len(self.item_indices) == len(self.values):
            raise InputError("a score matrix needs as many queries as items as values")
        if not np.isfinite(self.values).all():
            raise InputError("the scores of a score matrix must be finite")
        for indices, size in zip((self.query_indices, self.item_indices), self.shape, strict=True):
            if len(indices) and not (indices.min() >= 0 and indices.max() < size):
                raise InputError(f"indices of a score matrix of shape {self.shape} are out of range")
        if (np.diff(self.cells) <= 0).any():
            raise InputError("the pairs of a score matrix must be sorted, and no pair may stand twice")

    @classmethod
    def from_pairs(
        cls, query_indices: IntArray, item_indices: IntArray, values: FloatArray, shape: tuple[int, int]
    ) -> ScoreMatrix:
        """From pairs in any order, of any whole numbers."""
        query_indices, item_indices = (np.asarray(some, dtype=np.int64) for some in (query_indices, item_indices))
        order = np.lexsort((item_indices, query_indices))
        return cls(query_indices[order], item_indices[order], np.asarray(values, dtype=np.float64)[order], shape)

    @property
    def pairs(self) -> Pairs:
        """Those that were scored."""
        return Pairs(self.query_indices, self.item_indices)

    @property
    def cells(self) -> IntArray:
        """(n_observed,) places in the matrix read row by row, ascending."""
        flat: IntArray = self.query_indices.astype(np.int64) * self.shape[1] + self.item_indices
        return flat

    def with_more(self, other: ScoreMatrix) -> ScoreMatrix:
        """These scores and those of other pairs of the same queries and items."""
        parts = ((m.query_indices, m.item_indices, m.values) for m in (self, other))
        queries, items, values = (np.concatenate(both) for both in zip(*parts, strict=True))
        return ScoreMatrix.from_pairs(queries, items, values, self.shape)

    def updated(self, rows: IntArray) -> ScoreMatrix:
        """The scores of those items that stay.

        Args:
            rows: (n,) the position that each item has had, -1 for one that is new.
        """
        now = np.full(self.shape[1], -1)
        now[rows[rows >= 0]] = np.flatnonzero(rows >= 0)
        items = now[self.item_indices]
        stay = items >= 0
        shape = (self.shape[0], len(rows))
        return ScoreMatrix.from_pairs(self.query_indices[stay], items[stay], self.values[stay], shape)

    def by_query(self) -> Iterator[tuple[int, IntArray]]:
        """For each query with scores: its index, and the positions of its cells."""
        return groups(self.query_indices)

    def by_item(self) -> Iterator[tuple[int, IntArray]]:
        """For each item with scores: its index, and the positions of its cells."""
        return groups(self.item_indices)


def groups(keys: IntArray) -> Iterator[tuple[int, IntArray]]:
    """Each number that is in ``keys``, and the positions where it is."""
    order = np.argsort(keys, kind="stable")
    found, starts = np.unique(keys[order], return_index=True)
    for key, cells in zip(found, np.split(order, starts[1:]), strict=True) if len(found) else ():
        yield int(key), cells
