"""What an index asks of a factorization."""

from __future__ import annotations

from typing import Protocol

from crossknn.arrays import FloatArray
from crossknn.factorization.item_model import ItemModel
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs


class Factorization(Protocol):
    """Makes item vectors of scores."""

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """Refuse a plan's pairs that could not be factorized, before they are paid for.

        Args:
            pairs: those to be scored.
            n_items: of the index.
            has_vectors: whether the first stage has vectors.

        Raises:
            InputError: what is missing.
        """
        ...

    def fit(
        self, scores: ScoreMatrix, item_vectors: FloatArray | None = None, query_vectors: FloatArray | None = None
    ) -> ItemModel:
        """Item vectors, biases and the normalisation of CE scores.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d) the first stage's, if it has any.
            query_vectors: (n_queries, d) those of the train queries, from the same encoder.

        Raises:
            InputError: scores that cannot be factorized in this way.

        Cost: no CE call.
        """
        ...
