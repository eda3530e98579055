"""Which (train query, item) pairs to pay for (paper, section 2.1): the ``Q-*`` and ``I-*`` strategies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import repeat
from typing import Protocol

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.vectors import top_k


@dataclass(frozen=True)
class Pairs:
    """Pairs to score, sorted by query then item, each once.

    Attributes:
        query_indices: (n_pairs,).
        item_indices: (n_pairs,).
    """

    query_indices: IntArray
    item_indices: IntArray

    def __len__(self) -> int:
        return len(self.query_indices)

    def capped(self, max_calls: int) -> Pairs:
        """The first ``max_calls`` pairs: later queries are given up, the last one kept perhaps in part."""
        return Pairs(self.query_indices[:max_calls], self.item_indices[:max_calls])

    @classmethod
    def of(cls, flat: IntArray, n_items: int) -> Pairs:
        """From ``query * n_items + item``, in any order, repeats removed."""
        query_indices, item_indices = np.divmod(np.unique(flat.astype(np.int64)), n_items)
        return cls(query_indices, item_indices)


class Plan(Protocol):
    """Chooses pairs from the first stage's scores, without scoring any."""

    def pairs(self, blocks: Iterable[FloatArray], shape: tuple[int, int], rng: np.random.Generator) -> Pairs:
        """Pairs to score. How the queries are cut into blocks makes no difference.

        Args:
            blocks: first-stage scores, (some queries, n_items) after (the next queries, n_items). A block is computed
                when it is asked for: hold on to none, and ask for none that is not needed.
            shape: (n_queries, n_items) of all blocks together.
            rng: for the random part.
        """
        ...

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """CE calls that :meth:`pairs` would ask for, known before anything is computed."""
        ...

    def n_scored(self, n_queries: int, n_items: int) -> int:
        """Train queries that get scores, at most."""
        ...


@dataclass(frozen=True)
class PerQuery:
    """``Q-*``: for every train query, the first stage's best items and some drawn evenly from the others.

    Costs ``(top + uniform) * n_queries`` CE calls. Among the best items the search will have to tell apart; the random
    ones show the factorization what the rest looks like.

    Attributes:
        top: best items per query (the paper's ``k_d``).
        uniform: items per query drawn at random from the others.
    """

    top: int = 25
    uniform: int = 25

    def __post_init__(self) -> None:
        if self.top < 0 or self.uniform < 0 or self.top + self.uniform == 0:
            raise InputError(f"a plan needs items for each query, got top={self.top} and uniform={self.uniform}")

    def pairs(self, blocks: Iterable[FloatArray], shape: tuple[int, int], rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`."""
        n_queries, n_items = shape
        none = np.empty(0, dtype=np.int64)
        best = (top_k(row, self.top) for block in blocks for row in block) if self.top else repeat(none, n_queries)
        chosen = [query * n_items + _with_others(row, n_items, self.uniform, rng) for query, row in enumerate(best)]
        return Pairs.of(np.concatenate([none, *chosen]), n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_queries * min(self.top + self.uniform, n_items)

    def n_scored(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`: all."""
        return n_queries


@dataclass(frozen=True)
class PerItem:
    """``I-*``: for every item, the train queries that the first stage likes best for it and some drawn at random.

    Costs ``(top + uniform) * n_items`` CE calls. No item is left without a score, as a transductive factorization needs
    it.

    Attributes:
        top: best queries per item (the paper's ``k_d``).
        uniform: queries per item drawn at random from the others.
    """

    top: int = 0
    uniform: int = 2

    def __post_init__(self) -> None:
        if self.top < 0 or self.uniform < 0 or self.top + self.uniform == 0:
            raise InputError(f"a plan needs queries for each item, got top={self.top} and uniform={self.uniform}")

    def pairs(self, blocks: Iterable[FloatArray], shape: tuple[int, int], rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`. Holds each item's best so far, 16 bytes times ``top``."""
        n_queries, n_items = shape
        best = _best_of_columns(blocks, min(self.top, n_queries), n_items)
        chosen = [_with_others(best[:, i], n_queries, self.uniform, rng) * n_items + i for i in range(n_items)]
        return Pairs.of(np.concatenate([np.empty(0, dtype=np.int64), *chosen]), n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_items * min(self.top + self.uniform, n_queries)

    def n_scored(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`; fewer where several items get the same."""
        return min(n_queries, self.n_calls(n_queries, n_items))


@dataclass(frozen=True)
class AllItems:
    """Dense rows: the first train queries with every item, as CUR needs them.

    Costs ``n_items`` CE calls for each of these queries.

    Attributes:
        queries: how many train queries; None takes all.
    """

    queries: int | None = None

    def __post_init__(self) -> None:
        if self.queries is not None and self.queries < 1:
            raise InputError(f"a plan of dense rows needs at least one query, got queries={self.queries}")

    def pairs(self, blocks: Iterable[FloatArray], shape: tuple[int, int], rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`."""
        n_queries, n_items = shape
        return Pairs.of(np.arange(self.n_calls(n_queries, n_items)), n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_items * self.n_scored(n_queries, n_items)

    def n_scored(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_queries if self.queries is None else min(self.queries, n_queries)


def _with_others(best: IntArray, n: int, uniform: int, rng: np.random.Generator) -> IntArray:
    """The best of 0..n-1, and as many of the others drawn evenly."""
    others = np.setdiff1d(np.arange(n), best, assume_unique=True)
    return np.concatenate([best, rng.choice(others, min(uniform, len(others)), replace=False)])


def _best_of_columns(blocks: Iterable[FloatArray], n_best: int, n_columns: int) -> IntArray:
    """(n_best, n_columns) numbers, through all blocks, of the rows where each column is highest; ties by position."""
    best = np.zeros((n_best, n_columns), dtype=np.int64)
    scores = np.full((n_best, n_columns), -np.inf)
    seen = 0
    for block in blocks if n_best else ():
        columns = np.flatnonzero(block.max(axis=0) > scores[-1])  # an equal score comes too late
        rows = np.broadcast_to(np.arange(seen, seen + len(block))[:, None], (len(block), len(columns)))
        both, both_rows = np.vstack([scores[:, columns], block[:, columns]]), np.vstack([best[:, columns], rows])
        order = np.argsort(-both, axis=0, kind="stable")[:n_best]
        scores[:, columns] = np.take_along_axis(both, order, axis=0)
        best[:, columns] = np.take_along_axis(both_rows, order, axis=0)
        seen += len(block)
    return best
