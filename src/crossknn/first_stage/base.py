"""What the search needs of a cheap first stage: a score of every item, and perhaps vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError

Array = np.ndarray[Any, Any]
Kept = Mapping[str, Array]
"""Arrays by name, which spare a first stage the work of preparing the same items again."""


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

    def scores_given(
        self, queries: Sequence[str], query_vectors: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) ``scores``, where the query vectors are known already.

        Args:
            queries: their texts.
            query_vectors: (n_queries, d) of :meth:`embed_queries`.
            allowed: (n_items,) which items the search may return; what looks at a shortlist takes it from these.
        """
        ...

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """As in :class:`BoundFirstStage`."""
        ...


@runtime_checkable
class PairFirstStage(Protocol):
    """A bound first stage whose score of a pair tells what no vectors do: where it stands before a dual encoder's
    vectors, item models learn how much it counts for."""

    def scores_of(self, query: str, items: IntArray) -> FloatArray:
        """(len(items),) scores of some items, however low they rank."""
        ...


@runtime_checkable
class Keeper(Protocol):
    """A bound first stage that took work to prepare."""

    @property
    def kept(self) -> Kept:
        """What its first stage's ``prepare`` takes to be spared of it; there the arrays may be memory-mapped."""
        ...

    def updated(self, items: Sequence[str], rows: IntArray) -> BoundFirstStage:
        """The same for other items, of which only those that are new are work.

        What was found from the items as a whole (axes, counts of words) stays, so that what was learned over the
        vectors keeps its meaning.

        Args:
            items: item texts.
            rows: (n_items,) the position that each had among these items, -1 for one that is new.
        """
        ...


def updated(first_stage: FirstStage, bound: BoundFirstStage, items: Sequence[str], rows: IntArray) -> BoundFirstStage:
    """A bound first stage made ready for other items, in a moment or by :meth:`Keeper.updated`."""
    return bound.updated(items, rows) if isinstance(bound, Keeper) else first_stage.prepare(items)


def new_texts(items: Sequence[str], rows: IntArray) -> list[str]:
    """Of some items those that are new: ``rows`` is -1."""
    return [item for item, row in zip(items, rows, strict=True) if row < 0]


def with_new_rows(old: Array, rows: IntArray, new: Array) -> Array:
    """(n_items, ...) the old items' rows where they stand now, and the new ones', in their order, where ``rows`` is -1.

    Raises:
        InputError: the new ones are of another shape.
    """
    if new.shape != (int(np.sum(rows < 0)), *old.shape[1:]):
        raise InputError(f"{np.sum(rows < 0)} new items have vectors of shape {new.shape}, the others {old.shape[1:]}")
    both = np.empty((len(rows), *old.shape[1:]), dtype=old.dtype)
    both[rows >= 0], both[rows < 0] = old[rows[rows >= 0]], new
    return both


def kept_of(bound: BoundFirstStage) -> Kept:
    """What an index keeps of a bound first stage: nothing where that is prepared in a moment."""
    return bound.kept if isinstance(bound, Keeper) else {}


class FirstStage(Protocol):
    """Cheap retrieval over all items: no CE call, ever."""

    @property
    def fingerprint(self) -> str:
        """Model or method and its settings; part of an index."""
        ...

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundFirstStage:
        """Do the work that is done once per item list.

        Args:
            items: item texts.
            kept: what :func:`kept_of` an earlier ``prepare`` of the same items was, which an index keeps; None does all
                the work.
        """
        ...
