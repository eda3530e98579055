"""A dual encoder's vectors with lexical ones beside: meaning and spelling in one inner product."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError, import_extra
from crossknn.first_stage.base import Kept
from crossknn.first_stage.dense import BoundDense, Dense, Encoder
from crossknn.first_stage.tfidf import fitted

_NGRAMS = (3, 5)
_MOST_FEATURES = 50_000


class Hybrid(Dense):
    """Dense first stage of an encoder's vectors and lexical ones, one behind the other (extra ``tfidf``).

    An inner product is the encoder's plus ``weight`` times that of TF-IDF vectors of n-grams of 3 to 5 letters, as far
    as ``dimensions`` singular vectors of the items keep it (latent semantic indexing, Deerwester et al., 1990). What is
    learned from CE scores can then follow words and parts of words that the encoder is blind to.

    Memory: ``4 * dimensions`` bytes for an item, and for each of at most 50,000 n-grams. An index that is loaded counts
    the items' n-grams again: seconds for 50K short ones.

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
        self._dimensions, self._weight = dimensions, weight
        low, high = _NGRAMS
        self.fingerprint = f"hybrid:ngrams={low}-{high}:{dimensions}:weight={weight}:{encoder.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundDense:
        """Embed the items, count their n-grams and find the singular vectors; the last is done once for an index.

        Args:
            items: item texts.
            kept: ``vectors``, (n_items, d + lexical width).

        Raises:
            InputError: the vectors given do not fit the items, or are not finite.
        """
        options = {"analyzer": "char_wb", "ngram_range": _NGRAMS, "sublinear_tf": True, "max_features": _MOST_FEATURES}
        vectorizer = self._text.TfidfVectorizer(dtype=np.float32, **options)
        counts = fitted(vectorizer, items)
        if counts is None:
            return super().prepare(items, kept)
        width = min(self._dimensions, *counts.shape)
        if not kept:
            own = super().prepare(items).item_vectors
            kept = {"vectors": np.hstack([own, np.sqrt(self._weight) * _singular(counts, width)]).astype(np.float32)}
        vectors = super().prepare(items, kept).item_vectors
        lexical = np.asarray(vectors[:, vectors.shape[1] - width :])
        squares = np.einsum("nd,nd->d", lexical, lexical)
        # Z = A V gives V = A' Z / S^2: a loaded index has Z and A, and needs no other file
        shares = np.where(squares > 1e-9 * np.max(squares, initial=0), self._weight / np.maximum(squares, 1e-30), 0)
        projection = ((counts.T @ lexical) * shares).astype(np.float32)
        return BoundDense(_Beside(self.encoder, vectorizer, projection), vectors)


def _singular(counts: Any, width: int) -> FloatArray:
    """(n_items, width) rows of ``U S``."""
    decomposition = import_extra("sklearn.utils.extmath", "tfidf")
    u, s, _ = decomposition.randomized_svd(counts, n_components=width, n_iter=7, random_state=0)
    singular: FloatArray = u * s
    return singular


class _Beside:
    """An encoder's vectors, and the lexical ones of a fitted vectorizer behind them."""

    def __init__(self, encoder: Encoder, vectorizer: Any, projection: FloatArray) -> None:
        self._encoder, self._vectorizer, self._projection = encoder, vectorizer, projection
        self.fingerprint = encoder.fingerprint

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`~crossknn.first_stage.dense.Encoder`."""
        own = np.asarray(self._encoder.embed(texts), dtype=np.float32)
        lexical = self._vectorizer.transform(texts) @ self._projection
        return np.hstack([own, lexical]).astype(np.float32)
