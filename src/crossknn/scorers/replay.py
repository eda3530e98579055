"""A scorer that looks scores up instead of computing them: for tests, and for replaying a search at no cost."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.fingerprints import digest_texts
from crossknn.scorers.base import Fingerprint


class ReplayScorer:
    """Answers from a full matrix of scores.

    Args:
        scores: (n_queries, n_items) scores.
        queries: the n_queries texts, all different.
        items: the n_items texts, in the order in which the scorer is later bound to them (texts may repeat).
        fingerprint: of the scorer the matrix came from; without one, a hash of scores and texts.

    Raises:
        InputError: the shape does not fit, or a query stands twice.
    """

    def __init__(
        self, scores: ArrayLike, queries: Sequence[str], items: Sequence[str], fingerprint: Fingerprint | None = None
    ) -> None:
        self._scores = np.asarray(scores, dtype=np.float64)
        self._rows = {query: row for row, query in enumerate(queries)}
        self._items = list(items)
        if self._scores.shape != (len(queries), len(items)):
            raise InputError(
                f"scores have shape {self._scores.shape}, but there are {len(queries)} queries and {len(items)} items"
            )
        if len(self._rows) != len(queries):
            raise InputError("a query stands twice among the queries of a replay scorer")
        self.fingerprint = fingerprint or Fingerprint(f"replay:{self._digest()}")

    def prepare(self, items: Sequence[str]) -> ReplayScorer:
        """Make sure that these are the items. Costs no call."""
        if list(items) != self._items:
            raise InputError("a replay scorer can only be bound to the very items it has scores for")
        return self

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """Stored scores; see :class:`~crossknn.scorers.base.BoundScorer`."""
        try:
            rows = np.array([self._rows[query] for query in queries], dtype=np.int64)
        except KeyError as error:
            raise InputError(f"no scores are stored for the query {error.args[0]!r}") from None
        scores: FloatArray = self._scores[rows[query_indices], item_indices]
        return scores

    def _digest(self) -> str:
        texts = digest_texts([*self._rows, "", *self._items])
        return hashlib.sha256(texts.encode() + self._scores.tobytes()).hexdigest()[:16]
