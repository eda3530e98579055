"""Where the exact top k stood in the first stage, and which of them a search scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.recall import kth_best

_BORDERS = (10, 100, 1000)


@dataclass(frozen=True)
class RankBucket:
    """The part of the exact top k that the first stage had put at some ranks; shares are of all k.

    Attributes:
        first_rank: from 1.
        last_rank: it belongs to the bucket.
        found: share of the k that stands here and was scored.
        missed: share of the k that stands here and was not.
    """

    first_rank: int
    last_rank: int
    found: float
    missed: float

    @property
    def total(self) -> float:
        """Share of the k that stands here."""
        return self.found + self.missed


@dataclass(frozen=True)
class Origins:
    """The exact top k by first-stage rank.

    Attributes:
        k: how many items are looked for.
        buckets: ``found`` sums to Top-k-Recall; ``found`` and ``missed`` together to 1.
    """

    k: int
    buckets: Sequence[RankBucket]

    def beyond(self, rank: int) -> Origins:
        """Those of the buckets that lie wholly beyond a first-stage rank."""
        return Origins(self.k, [bucket for bucket in self.buckets if bucket.first_rank > rank])

    @property
    def found(self) -> float:
        """Share of the k that was scored."""
        return sum(bucket.found for bucket in self.buckets)

    @property
    def total(self) -> float:
        """Share of the k that stands in these buckets."""
        return sum(bucket.total for bucket in self.buckets)


def bucket_ends(n_items: int, budget: int) -> list[int]:
    """Last ranks of the buckets: 10, 100, 1,000, as far as reranking would see with a budget, and all items."""
    return sorted({end for end in (*_BORDERS, budget) if end < n_items} | {n_items})


def origins(exact: FloatArray, scored: IntArray, ranks: IntArray, k: int, ends: Sequence[int]) -> Origins:
    """Split the exact top k of some queries by first-stage rank, and by whether they were scored.

    What ties with the k-th counts as in Top-k-Recall: items that were scored come first, then the first stage's order.

    Args:
        exact: (n_queries, n_items) CE scores of all items.
        scored: (n_queries, n_scored) items that the search scored.
        ranks: (n_queries, n_items) first-stage ranks from 1.
        k: 1 to n_items.
        ends: last rank of each bucket, rising; the last one is n_items.
    """
    counts = np.zeros((2, len(ends)))
    for scores, found, rank in zip(exact, scored, ranks, strict=True):
        missed = np.ones(len(scores), dtype=np.int64)
        missed[found] = 0
        candidates = np.flatnonzero(scores >= kth_best(scores, k))
        top = candidates[np.lexsort((rank[candidates], missed[candidates], -scores[candidates]))[:k]]
        np.add.at(counts, (missed[top], np.searchsorted(ends, rank[top])), 1)
    shares = (counts / (k * len(exact))).T.tolist()
    starts = [1, *(end + 1 for end in ends)]
    return Origins(k, [RankBucket(*bucket, *share) for *bucket, share in zip(starts, ends, shares, strict=False)])
