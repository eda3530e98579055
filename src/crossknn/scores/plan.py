"""Which (train query, item) pairs to pay for (paper, section 2.1): the ``Q-*`` and ``I-*`` strategies."""

from __future__ import annotations

from dataclasses import dataclass
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

    def pairs(self, first_stage_scores: FloatArray, rng: np.random.Generator) -> Pairs:
        """Pairs to score, given (n_queries, n_items) first-stage scores."""
        ...

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """CE calls that :meth:`pairs` would ask for, known before anything is computed."""
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

    top: int = 50
    uniform: int = 50

    def __post_init__(self) -> None:
        if self.top < 0 or self.uniform < 0 or self.top + self.uniform == 0:
            raise InputError(f"a plan needs items for each query, got top={self.top} and uniform={self.uniform}")

    def pairs(self, first_stage_scores: FloatArray, rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`."""
        n_items = first_stage_scores.shape[1]
        chosen = []
        for query, scores in enumerate(first_stage_scores):
            best = top_k(scores, min(self.top, n_items))
            others = np.setdiff1d(np.arange(n_items), best, assume_unique=True)
            drawn = rng.choice(others, min(self.uniform, len(others)), replace=False)
            chosen.append(query * n_items + np.concatenate([best, drawn]))
        return Pairs.of(np.concatenate([np.empty(0, dtype=np.int64), *chosen]), n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_queries * min(self.top + self.uniform, n_items)


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

    def pairs(self, first_stage_scores: FloatArray, rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`."""
        n_items = first_stage_scores.shape[1]
        turned = PerQuery(self.top, self.uniform).pairs(np.ascontiguousarray(first_stage_scores.T), rng)
        return Pairs.of(turned.item_indices * n_items + turned.query_indices, n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_items * min(self.top + self.uniform, n_queries)


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

    def pairs(self, first_stage_scores: FloatArray, rng: np.random.Generator) -> Pairs:
        """See :class:`Plan`."""
        n_queries, n_items = first_stage_scores.shape
        return Pairs.of(np.arange(self.n_calls(n_queries, n_items)), n_items)

    def n_calls(self, n_queries: int, n_items: int) -> int:
        """See :class:`Plan`."""
        return n_items * (n_queries if self.queries is None else min(self.queries, n_queries))
