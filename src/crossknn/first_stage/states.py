"""What the cross-encoder itself makes of each item, beside a dual encoder's vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.first_stage.base import FirstStage, Kept, new_texts, with_new_rows
from crossknn.first_stage.beside import WithVectors
from crossknn.first_stage.dense import BoundDense, Dense
from crossknn.scorers.base import NOTHING_TO_READ, Fingerprint

_SMALLEST = 1e-12
_ALIKE = 1e-4
"""Of a vector of length 1, what may be left of it in single precision where there is no difference."""


@runtime_checkable
class ShowsStates(Protocol):
    """A cross-encoder that can be looked into: :class:`~crossknn.SentenceTransformersScorer`,
    :class:`~crossknn.OnnxScorer`, and these behind a cache."""

    @property
    def fingerprint(self) -> Fingerprint:
        """Model and kernel."""
        ...

    def states(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, n_layers, d) float32: of some layers, the mean of the hidden states of each text's tokens.

        A text is read where an item stands, with nothing in the query's place; zeros where it has no token.

        Raises:
            InputError: the model shows none.

        Cost: a pass of the model over every text by itself, somewhat less than a CE call; none without texts.
        """
        ...


class WithStates(Dense):
    """A dual encoder's vectors with the hidden states of a cross-encoder beside each item's.

    A cross-encoder sees more in an item than a dual encoder keeps of it, and it is its scores that are learned. Read
    alone, an item takes it on its way to them: the states of its tokens, averaged in some layers, tell which items it
    takes for alike, also those that were never scored. What is learned from scores follows them, and so do the rounds
    of a search. A query has zeros in their place, so inner products, and with them the ranking, are the dual encoder's.

    Memory: ``4 * dimensions`` bytes for an item; while they are prepared ``8 n_layers d`` bytes more for each.

    Args:
        dense: gives vectors and ranking; a :class:`~crossknn.Hybrid` too.
        scorer: the cross-encoder, such that it shows its states (:class:`ShowsStates`).
        dimensions: of the states, their principal ones over the items; all where there are fewer.

    Raises:
        InputError: ``dimensions`` below 1, or the cross-encoder has no hidden states to show.

    Cost: reading the items, once for an index: a pass of the cross-encoder for each, of the item alone. It is counted
    as a CE call for each wherever systems are compared (:func:`calls_to_prepare`), and is not among those that a build
    caps. One that is interrupted reads again what it had not read to the end. Queries cost nothing.
    """

    def __init__(self, dense: Dense, scorer: object, *, dimensions: int = 256) -> None:
        if dimensions < 1:
            raise InputError(f"dimensions must be 1 or more, got {dimensions}")
        if isinstance(dense, WithStates):
            raise InputError("the vectors have hidden states beside them already")
        if not isinstance(scorer, ShowsStates):
            raise InputError(NOTHING_TO_READ.format(type(scorer).__name__))
        scorer.states([])
        super().__init__(dense.encoder)
        self._dense, self._scorer, self._dimensions = dense, scorer, dimensions
        self.fingerprint = f"states:{scorer.fingerprint.model}:{dimensions}:{dense.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundDense:
        """Prepare the dual encoder, and read the items unless all is kept.

        Args:
            items: item texts.
            kept: ``vectors``, (n_items, width + states); ``width``, (1,) of the dual encoder's; ``mean_state`` and
                ``state_axes``, those of :func:`_principal`; and what else the dual encoder keeps.

        Raises:
            InputError: what is kept does not fit the items, or the states are not finite.
        """
        if kept is not None:
            if not kept.keys() >= {"vectors", "width", "mean_state", "state_axes"}:
                raise InputError(f"what was kept ({', '.join(kept)}) is not of hidden states as they are now")
            vectors, width = kept["vectors"], int(kept["width"][0])
            own = self._dense.prepare(items, {**kept, "vectors": vectors[:, :width]})
            mean, axes = np.asarray(kept["mean_state"]), np.asarray(kept["state_axes"])
        else:
            own, states = self._dense.prepare(items), _read(self._scorer, items)
            mean, axes = _principal(states, self._dimensions)
            vectors = np.hstack([own.item_vectors, _narrowed(states, mean, axes)])
        return _BoundWithStates(own, vectors, self._scorer, mean, axes)


class _BoundWithStates(BoundDense):
    """Both, for a list of items."""

    def __init__(
        self, own: BoundDense, item_vectors: FloatArray, scorer: ShowsStates, mean: FloatArray, axes: FloatArray
    ) -> None:
        self.item_vectors = item_vectors
        own.item_vectors = item_vectors[:, : own.item_vectors.shape[1]]  # no second copy
        self._own, self._scorer, self._mean, self._axes = own, scorer, mean, axes

    @property
    def kept(self) -> Kept:
        """See :meth:`WithStates.prepare`."""
        width = np.array([self._own.item_vectors.shape[1]])
        states = {"width": width, "mean_state": self._mean, "state_axes": self._axes}
        return {**self._own.kept, "vectors": self.item_vectors, **states}

    def updated(self, items: Sequence[str], rows: IntArray) -> _BoundWithStates:
        """As of the dual encoder; and reads the new items, a pass of the cross-encoder for each. Mean and axes stay
        those of the items that were there first."""
        own, texts, width = self._own.updated(items, rows), new_texts(items, rows), self._axes.shape[1]
        none = np.empty((0, width), dtype=np.float32)
        new = _narrowed(_read(self._scorer, texts), self._mean, self._axes) if texts else none
        states = with_new_rows(self.item_vectors[:, self.item_vectors.shape[1] - width :], rows, new)
        return _BoundWithStates(own, np.hstack([own.item_vectors, states]), self._scorer, self._mean, self._axes)

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) float32, with zeros where items have states."""
        own = self._own.embed_queries(queries)
        return np.pad(own, ((0, 0), (0, self.item_vectors.shape[1] - own.shape[1])))

    def scores_given(
        self, queries: Sequence[str], query_vectors: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) the dual encoder's."""
        return self._own.scores_given(queries, query_vectors[:, : self._own.item_vectors.shape[1]], allowed)


def _read(scorer: ShowsStates, items: Sequence[str]) -> FloatArray:
    """(n_items, n_layers, d) float32 states of items, to length 1 in each layer."""
    states = np.array(scorer.states(items), dtype=np.float32)  # a copy
    if states.ndim != 3 or len(states) != len(items) or not np.isfinite(states).all():
        raise InputError(f"{len(items)} items have states of shape {states.shape}, or some that are not finite")
    _to_unit(states, _SMALLEST)
    return states


def _principal(states: FloatArray, dimensions: int) -> tuple[FloatArray, FloatArray]:
    """(n_layers, d) mean of the states of items that have any, and (n_layers d, dimensions) principal axes of what they
    are less that, to length 1."""
    mean: FloatArray = states.sum(axis=0) / max(1, int(states.any(axis=(1, 2)).sum()))
    flat = _centred(states, mean)
    axes = np.linalg.eigh((flat.T @ flat).astype(np.float64))[1][:, ::-1][:, :dimensions]
    return mean, axes.astype(np.float32)


def _narrowed(states: FloatArray, mean: FloatArray, axes: FloatArray) -> FloatArray:
    """(n_items, dimensions) float32. Items without a token have zeros, and so has what is all alike."""
    narrow: FloatArray = _centred(states, mean) @ axes
    return narrow


def _centred(states: FloatArray, mean: FloatArray) -> FloatArray:
    """(n_items, n_layers d) states less their mean, to length 1 in each layer."""
    centred = states - mean
    centred[~states.any(axis=(1, 2))] = 0
    _to_unit(centred, _ALIKE)
    return centred.reshape(len(states), states.shape[1] * states.shape[2])


def _to_unit(states: FloatArray, least: float) -> None:
    """To length 1, in place; what is shorter than ``least`` to 0."""
    lengths = np.sqrt(np.einsum("nld,nld->nl", states, states))[..., None]
    states *= np.where(lengths < least, 0, 1 / np.maximum(lengths, least))


def calls_to_prepare(first_stage: FirstStage, n_items: int) -> int:
    """Passes of the cross-encoder that preparing a first stage takes, each counted as a CE call."""
    dense = first_stage.dense if isinstance(first_stage, WithVectors) else first_stage
    return n_items if isinstance(dense, WithStates) else 0
