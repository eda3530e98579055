"""TF-IDF by scikit-learn, the paper's sparse first stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError, import_extra
from crossknn.first_stage.base import Kept


class TfIdf:
    """First stage by the cosine of TF-IDF vectors (extra ``tfidf``); no model. The defaults are the paper's code's.

    Args:
        analyzer: features are words of two letters or more, or n-grams of letters within words.
        ngram_range: shortest and longest n-gram; ("char_wb", (3, 5)) forgives spelling.
        sublinear_tf: count a word that stands n times as 1 + ln(n), not n.

    Raises:
        InputError: ``ngram_range`` is none.
        MissingExtraError: scikit-learn is not installed.
    """

    def __init__(
        self,
        *,
        analyzer: Literal["word", "char_wb"] = "word",
        ngram_range: tuple[int, int] = (1, 1),
        sublinear_tf: bool = False,
    ) -> None:
        self._library = import_extra("sklearn.feature_extraction.text", "tfidf")
        self._options = {"analyzer": analyzer, "ngram_range": ngram_range, "sublinear_tf": sublinear_tf}
        # without scikit-learn's version: nothing fitted is stored, an index that is loaded fits again
        low, high = ngram_range
        if not 1 <= low <= high:
            raise InputError(f"ngram_range must be a shortest and a longest n-gram, 1 or more, got {ngram_range}")
        self.fingerprint = f"tfidf:{analyzer}:ngrams={low}-{high}:sublinear_tf={sublinear_tf}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> _BoundTfIdf:
        """Count the words of the items (a second or so for 50K short ones)."""
        return _BoundTfIdf(items, self._library.TfidfVectorizer(dtype=np.float32, **self._options))


def fitted(vectorizer: Any, items: Sequence[str]) -> Any | None:
    """Fit to the items: their (n_items, n_features) sparse vectors; None where no item has a feature, for scikit-learn
    refuses to count nothing."""
    analyze = vectorizer.build_analyzer()
    return vectorizer.fit_transform(items) if any(analyze(item) for item in items) else None


class _BoundTfIdf:
    def __init__(self, items: Sequence[str], vectorizer: Any) -> None:
        self._n_items = len(items)
        self._vectorizer = vectorizer
        by_item = fitted(vectorizer, items)
        self._by_feature = None if by_item is None else by_item.T.tocsr()  # (n_features, n_items), sparse by row

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) float32 cosines, 0 to 1; a sparse product goes row by row, so batches do not matter."""
        if self._by_feature is None or not queries:
            return np.zeros((len(queries), self._n_items), dtype=np.float32)
        scores: FloatArray = (self._vectorizer.transform(queries) @ self._by_feature).toarray()
        return scores
