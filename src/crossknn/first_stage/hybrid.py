"""A dual encoder's vectors with lexical ones beside: meaning and spelling in one inner product."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, import_extra
from crossknn.first_stage.base import Array, Kept
from crossknn.first_stage.dense import BoundDense, Dense, Encoder
from crossknn.first_stage.tfidf import fitted

_NGRAMS = (3, 5)
_MOST_FEATURES = 50_000
_SMALLEST = 1e-5
"""Singular values below this share of the largest are nothing but rounding."""


class Hybrid(Dense):
    """Dense first stage of an encoder's vectors and lexical ones, one behind the other (extra ``tfidf``).

    An inner product is the encoder's plus ``weight`` times that of TF-IDF vectors of n-grams of 3 to 5 letters, as far
    as ``dimensions`` singular vectors of the items keep it (latent semantic indexing, Deerwester et al., 1990). What is
    learned from CE scores can then follow words and parts of words that the encoder is blind to.

    Memory: ``4 * dimensions`` bytes for an item, and for each of at most 50,000 n-grams.

    Args:
        encoder: embeds queries, and the items unless their vectors are given.
        item_vectors: (n_items, d) the encoder's own, made earlier.
        dimensions: width of the lexical part; less where there are fewer items or n-grams.
        weight: of the lexical inner product; TF-IDF vectors have length 1.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: ``dimensions`` below 1, or ``weight`` not above 0.
    """

    def __init__(
        self,
        encoder: Encoder,
        item_vectors: FloatArray | None = None,
        *,
        dimensions: int = 256,
        weight: float = 1.0,
    ) -> None:
        if dimensions < 1 or not (weight > 0 and np.isfinite(weight)):
            raise InputError(f"dimensions must be 1 or more and weight above 0, got {dimensions} and {weight}")
        super().__init__(encoder, item_vectors)
        self._text = import_extra("sklearn.feature_extraction.text", "tfidf")
        self._decomposed = import_extra("sklearn.utils.extmath", "tfidf").randomized_svd
        self._dimensions, self._weight = dimensions, weight
        low, high = _NGRAMS
        self.fingerprint = f"hybrid:ngrams={low}-{high}:{dimensions}:weight={weight}:{encoder.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundDense:
        """Embed the items, count their n-grams and find the singular vectors.

        Args:
            items: item texts.
            kept: ``vectors``, (n_items, d + lexical width), ``ngrams``, ``idf`` and ``axes``: what was counted, each
                n-gram's weight, and (n_ngrams, lexical width) what turns counts into vectors.

        Raises:
            InputError: the vectors given do not fit the items, or are not finite, or what is kept is of another first
                stage.
        """
        if kept is not None:
            if not kept.keys() >= {"vectors", "ngrams", "idf", "axes"}:
                raise InputError(f"what was kept ({', '.join(kept)}) is not of a hybrid first stage as it is now")
            counter = self._counter(vocabulary=_texts(kept["ngrams"]))
            counter.idf_ = np.asarray(kept["idf"])
            beside = _Beside(self.encoder, counter, np.asarray(kept["axes"]))
            return _BoundHybrid(beside, super().prepare(items, kept).item_vectors)
        own, counter = super().prepare(items).item_vectors, self._counter(max_features=_MOST_FEATURES)
        counts = fitted(counter, items)
        if counts is None:  # one that nothing has
            counter = self._counter(vocabulary=[""])
            counter.idf_ = np.ones(1, dtype=np.float32)
            return _BoundHybrid(_Beside(self.encoder, counter, np.zeros((1, 0), dtype=np.float32)), own)
        width = min(self._dimensions, *counts.shape)
        u, s, v = self._decomposed(counts, n_components=width, n_iter=7, random_state=0)
        turned = np.where(s > _SMALLEST * s[0], math.sqrt(self._weight) * v.T, 0).astype(np.float32)
        vectors = np.hstack([own, math.sqrt(self._weight) * u * s]).astype(np.float32, copy=False)
        return _BoundHybrid(_Beside(self.encoder, counter, turned), vectors)

    def _counter(self, **options: Any) -> Any:
        ngrams = {"analyzer": "char_wb", "ngram_range": _NGRAMS, "sublinear_tf": True}
        return self._text.TfidfVectorizer(dtype=np.float32, **ngrams, **options)


class _BoundHybrid(BoundDense):
    """A dual encoder and what is counted beside it, for a list of items."""

    def __init__(self, beside: _Beside, item_vectors: FloatArray) -> None:
        super().__init__(beside, item_vectors)
        self._beside = beside

    @property
    def kept(self) -> Kept:
        """``vectors``, ``ngrams``, ``idf`` and ``axes``; see :meth:`Hybrid.prepare`."""
        counter = self._beside.counter
        ngrams = sorted(counter.vocabulary_, key=counter.vocabulary_.__getitem__)
        counted = {"ngrams": _letters(ngrams), "idf": counter.idf_, "axes": self._beside.axes}
        return {"vectors": self.item_vectors, **counted}

    def updated(self, items: Sequence[str], rows: IntArray) -> _BoundHybrid:
        """As of a dual encoder; n-grams and axes stay those that were counted first."""
        return _BoundHybrid(self._beside, super().updated(items, rows).item_vectors)


class _Beside:
    """An encoder's vectors, and the lexical ones behind them."""

    def __init__(self, encoder: Encoder, counter: Any, axes: FloatArray) -> None:
        self._encoder, self.counter, self.axes = encoder, counter, axes
        self.fingerprint = encoder.fingerprint

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`~crossknn.first_stage.dense.Encoder`."""
        own = np.asarray(self._encoder.embed(texts), dtype=np.float32)
        lexical = self.counter.transform(texts) @ self.axes
        return np.hstack([own, lexical]).astype(np.float32)


def _letters(ngrams: Sequence[str]) -> Array:
    """Texts without line breaks, as the bytes of one."""
    return np.frombuffer("\n".join(ngrams).encode(), dtype=np.uint8)


def _texts(letters: Array) -> list[str]:
    """Back again."""
    return bytes(letters).decode().split("\n")
