"""What the search needs of a cheap first stage: a score of every item, and perhaps vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crossknn.arrays import FloatArray


class BoundFirstStage(Protocol):
    """A first stage made ready for a list of items."""

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) scores, higher is better. A query's row does not depend on the other queries."""
        ...


@runtime_checkable
class VectorFirstStage(Protocol):
    """A bound first stage that has vectors: a dual encoder, or one beside another first stage."""

    @property
    def item_vectors(self) -> FloatArray:
        """(n_items, d) float32."""
        ...

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) float32."""
        ...

    def scores_given(self, queries: Sequence[str], query_vectors: FloatArray) -> FloatArray:
        """(n_queries, n_items) ``scores``, where the query vectors are known already."""
        ...

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """As in :class:`BoundFirstStage`."""
        ...


class FirstStage(Protocol):
    """Cheap retrieval over all items: no CE call, ever."""

    @property
    def fingerprint(self) -> str:
        """Model or method and its settings; part of an index."""
        ...

    def prepare(self, items: Sequence[str], item_vectors: FloatArray | None = None) -> BoundFirstStage:
        """Do the work that is done once per item list.

        Args:
            items: item texts.
            item_vectors: what an earlier ``prepare`` made, kept in an index. A first stage without vectors ignores it.
        """
        ...
