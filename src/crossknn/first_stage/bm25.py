"""BM25 (Lucene's variant) over words, by bm25s."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.first_stage.base import Kept


class BM25:
    """First stage by words in common; no vectors, no model.

    Args:
        k1: how fast repeated words stop counting.
        b: how much long items are held back, 0 to 1.
    """

    def __init__(self, *, k1: float = 1.5, b: float = 0.75) -> None:
        self._k1, self._b = k1, b
        self.fingerprint = f"bm25:lucene:k1={k1}:b={b}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> _BoundBM25:
        """Index the words of the items (about a second for 50K short ones)."""
        return _BoundBM25(items, self._k1, self._b)


class _BoundBM25:
    def __init__(self, items: Sequence[str], k1: float, b: float) -> None:
        import bm25s  # imports scipy where that is installed, which takes a moment

        self._tokenize = bm25s.tokenize
        self._n_items = len(items)
        self._retriever = None
        tokens = self._tokenize(list(items), stopwords=None, show_progress=False)
        if tokens.vocab:
            self._retriever = bm25s.BM25(k1=k1, b=b, method="lucene")
            self._retriever.index(tokens, show_progress=False)

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items); an item that shares no word scores 0."""
        scores = np.zeros((len(queries), self._n_items), dtype=np.float32)
        if self._retriever is not None:
            words = self._tokenize(list(queries), stopwords=None, return_ids=False, show_progress=False)
            for row, query_words in enumerate(words):
                known = [word for word in query_words if word in self._retriever.vocab_dict]
                if known:
                    scores[row] = self._retriever.get_scores(known)
        return scores
