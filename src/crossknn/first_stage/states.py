"""What the cross-encoder itself makes of each item, beside a dual encoder's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from crossknn.arrays import BoolArray, FloatArray
from crossknn.errors import InputError
from crossknn.first_stage.base import Kept
from crossknn.first_stage.dense import BoundDense, Dense


class _Named(Protocol):
    @property
    def model(self) -> str:
        """Everything that decides what it gives."""
        ...


@runtime_checkable
class Reader(Protocol):
    """A cross-encoder that can be looked into: :class:`~crossknn.SentenceTransformersScorer`,
    :class:`~crossknn.OnnxScorer`."""

    @property
    def fingerprint(self) -> _Named:
        """Model and kernel."""
        ...

    def states(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, n_layers, d) float32: of some layers, the mean of the hidden states of each text's tokens.

        A text is read where an item stands, with nothing in the query's place.

        Raises:
            InputError: the model shows none.

        Cost: a pass of the model over every text by itself, somewhat less than a CE call.
        """
        ...


class WithStates(Dense):
    """A dual encoder's vectors with the hidden states of a cross-encoder beside each item's.

    A cross-encoder sees more in an item than a dual encoder keeps of it, and it is its scores that are learned. Read
    alone, an item takes it on its way to them: the states of its tokens, averaged in some layers, tell which items it
    takes for alike, also those that were never scored. They count for nothing until something is learned: a query has
    zeros in their place, so inner products, and with them the ranking, are the dual encoder's.

    Memory: ``4 * dimensions`` bytes for an item; while they are prepared ``12 n_layers d`` bytes more for each.

    Args:
        dense: gives vectors and ranking; a :class:`~crossknn.Hybrid` too.
        reader: the cross-encoder.
        dimensions: of the states, their principal ones over the items; all where there are fewer.

    Raises:
        InputError: ``dimensions`` below 1, or the cross-encoder has no hidden states to show.

    Cost: reading the items, once for an index: a pass of the cross-encoder for each, of the item alone. Counted as a
    CE call for each wherever this library compares systems. Queries cost nothing.
    """

    def __init__(self, dense: Dense, reader: Reader, *, dimensions: int = 256) -> None:
        if dimensions < 1:
            raise InputError(f"dimensions must be 1 or more, got {dimensions}")
        if isinstance(dense, WithStates):
            raise InputError("the vectors have hidden states beside them already")
        if not isinstance(reader, Reader):
            raise InputError(
                f"a {type(reader).__name__} has no hidden states to read; SentenceTransformersScorer and OnnxScorer do"
            )
        super().__init__(dense.encoder)
        self._dense, self._reader = dense, reader
        self._dimensions = min(dimensions, _checked(reader.states(["a"]), 1).size)
        self.fingerprint = f"states:{reader.fingerprint.model}:{self._dimensions}:{dense.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundDense:
        """Prepare the dual encoder, and read the items unless their ``vectors`` are kept.

        Raises:
            InputError: the vectors kept do not fit the items, or the states are not finite.
        """
        if kept:
            return _BoundWithStates(
                self._dense.prepare(items, {"vectors": kept["vectors"][:, : -self._dimensions]}), kept["vectors"]
            )
        own = self._dense.prepare(items)
        states = np.zeros((0, self._dimensions), dtype=np.float32)
        if items:
            states = _principal(_checked(self._reader.states(items), len(items)), self._dimensions)
        return _BoundWithStates(own, np.hstack([own.item_vectors, states]))


class _BoundWithStates(BoundDense):
    """Both, for a list of items."""

    def __init__(self, own: BoundDense, item_vectors: FloatArray) -> None:
        self.item_vectors = item_vectors
        own.item_vectors = item_vectors[:, : own.item_vectors.shape[1]]  # no second copy
        self._own = own

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) float32, with zeros where items have states."""
        own = self._own.embed_queries(queries)
        return np.pad(own, ((0, 0), (0, self.item_vectors.shape[1] - own.shape[1])))

    def scores_given(
        self, queries: Sequence[str], query_vectors: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) the dual encoder's."""
        return self._own.scores_given(queries, query_vectors[:, : self._own.item_vectors.shape[1]], allowed)


def _checked(states: FloatArray, n_texts: int) -> FloatArray:
    if states.ndim != 3 or len(states) != n_texts or not np.isfinite(states).all():
        raise InputError(f"the cross-encoder gave states of shape {states.shape} for {n_texts} texts, or not finite")
    return states


def _principal(states: FloatArray, dimensions: int) -> FloatArray:
    """(n_items, dimensions) float32: each layer's states, less their mean, to length 1, as far as the first axes hold
    them."""
    states = _unit(states)
    states = _unit(states - states.mean(axis=0)).reshape(len(states), -1)
    axes = np.linalg.eigh((states.T @ states).astype(np.float64))[1][:, ::-1][:, :dimensions]
    narrow: FloatArray = (states @ axes).astype(np.float32)
    return narrow


def _unit(states: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(states, axis=-1, keepdims=True)
    unit: FloatArray = states / np.maximum(lengths, 1e-12)
    return unit
