"""One first stage for the ranking, a dual encoder for the vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.first_stage.base import BoundFirstStage, FirstStage, Kept, kept_of, updated
from crossknn.first_stage.dense import BoundDense, Dense

_FIRST = "first_"


@runtime_checkable
class _Shortlisting(Protocol):
    """A bound first stage that looks at a shortlist, such as late interaction."""

    def scores_after(self, queries: Sequence[str], others: FloatArray, allowed: BoolArray | None) -> FloatArray:
        """``scores``, of which (n_queries, n_items) other scores say where to look among the (n_items,) allowed."""
        ...


class WithVectors:
    """A first stage that has no vectors of its own, with a dual encoder's beside it.

    Searches begin with what the first stage ranks highest, and go on in the dual encoder's vectors: AXN_{DE,BM25} in
    the paper's names.

    Args:
        first: ranks the items.
        dense: gives the vectors.

    Attributes:
        first, dense: the same.
    """

    def __init__(self, first: FirstStage, dense: Dense) -> None:
        self.first, self.dense = first, dense
        self.fingerprint = f"{first.fingerprint} with {dense.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundWithVectors:
        """Prepare both."""
        kept = kept or {}
        first = {name.removeprefix(_FIRST): array for name, array in kept.items() if name.startswith(_FIRST)}
        dense_bound = self.dense.prepare(items, of_dense(kept) or None)
        return BoundWithVectors(self.first, self.first.prepare(items, first or None), dense_bound)


class BoundWithVectors:
    """Both made ready for a list of items; see :class:`~crossknn.first_stage.base.VectorFirstStage`.

    Attributes:
        first: ranks the items.
    """

    def __init__(self, first_stage: FirstStage, first: BoundFirstStage, dense: BoundDense) -> None:
        self._first_stage, self.first, self._dense = first_stage, first, dense

    @property
    def kept(self) -> Kept:
        """The dual encoder's, and what the first stage keeps."""
        return {f"{_FIRST}{name}": array for name, array in kept_of(self.first).items()} | dict(self._dense.kept)

    def updated(self, items: Sequence[str], rows: IntArray) -> BoundWithVectors:
        """See :meth:`~crossknn.first_stage.base.Keeper.updated`."""
        first = updated(self._first_stage, self.first, items, rows)
        return BoundWithVectors(self._first_stage, first, self._dense.updated(items, rows))

    @property
    def item_vectors(self) -> FloatArray:
        """(n_items, d) the dual encoder's."""
        return self._dense.item_vectors

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) the dual encoder's."""
        return self._dense.embed_queries(queries)

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) the first stage's."""
        if isinstance(self.first, _Shortlisting):
            return self.scores_given(queries, self.embed_queries(queries))
        return self.first.scores(queries)

    def scores_given(
        self, queries: Sequence[str], query_vectors: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) the first stage's, which may ask the dual encoder which items to look at."""
        if isinstance(self.first, _Shortlisting):
            return self.first.scores_after(queries, self._dense.scores_given(queries, query_vectors), allowed)
        return self.first.scores(queries)


def of_dense(kept: Kept) -> Kept:
    """Of what :class:`BoundWithVectors` keeps, or the dual encoder alone, that of the dual encoder."""
    return {name: array for name, array in kept.items() if not name.startswith(_FIRST)}
