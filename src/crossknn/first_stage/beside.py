"""One first stage for the ranking, a dual encoder for the vectors."""

from __future__ import annotations

from collections.abc import Sequence

from crossknn.arrays import FloatArray
from crossknn.first_stage.base import BoundFirstStage, FirstStage
from crossknn.first_stage.dense import BoundDense, Dense


class WithVectors:
    """A first stage that has no vectors of its own, with a dual encoder's beside it.

    Searches begin with what the first stage ranks highest, and go on in the dual encoder's vectors: AXN_{DE,BM25} in
    the paper's names.

    Args:
        first: ranks the items.
        dense: gives the vectors.

    Attributes:
        dense: the same.
    """

    def __init__(self, first: FirstStage, dense: Dense) -> None:
        self._first, self.dense = first, dense
        self.fingerprint = f"{first.fingerprint} with {dense.fingerprint}"

    def prepare(self, items: Sequence[str], item_vectors: FloatArray | None = None) -> BoundWithVectors:
        """Prepare both; ``item_vectors`` are the dual encoder's."""
        return BoundWithVectors(self._first.prepare(items), self.dense.prepare(items, item_vectors))


class BoundWithVectors:
    """Both made ready for a list of items; see :class:`~crossknn.first_stage.base.VectorFirstStage`."""

    def __init__(self, first: BoundFirstStage, dense: BoundDense) -> None:
        self._first, self._dense = first, dense

    @property
    def item_vectors(self) -> FloatArray:
        """(n_items, d) the dual encoder's."""
        return self._dense.item_vectors

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) the dual encoder's."""
        return self._dense.embed_queries(queries)

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) the first stage's."""
        return self._first.scores(queries)

    def scores_given(self, queries: Sequence[str], query_vectors: FloatArray) -> FloatArray:
        """(n_queries, n_items) the first stage's, which has no use for the vectors."""
        return self.scores(queries)
