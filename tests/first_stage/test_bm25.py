"""BM25 against Lucene's formula, written out word by word."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn import BM25


def lucene(query: str, items: list[str], k1: float, b: float) -> list[float]:
    """Sum over query words of ``ln(1 + (N - df + .5) / (df + .5)) * tf / (tf + k1 (1 - b + b length / mean))``."""
    documents = [re.findall(r"\b\w\w+\b", item.lower()) for item in items]
    mean_length = sum(len(words) for words in documents) / len(documents)
    scores = [0.0] * len(items)
    for word in re.findall(r"\b\w\w+\b", query.lower()):
        containing = sum(word in words for words in documents)
        idf = math.log(1 + (len(items) - containing + 0.5) / (containing + 0.5))
        for n, words in enumerate(documents):
            tf = words.count(word)
            if tf:
                scores[n] += idf * tf / (tf + k1 * (1 - b + b * len(words) / mean_length))
    return scores


_words = st.lists(st.sampled_from(["Cat", "cat", "dog", "bird", "été", "x", "42", "!"]), max_size=8).map(" ".join)


@given(items=st.lists(_words, min_size=1, max_size=8), queries=st.lists(_words, min_size=1, max_size=3))
def test_bm25_is_lucenes_formula(items: list[str], queries: list[str]) -> None:
    scores = BM25(k1=1.2, b=0.6).prepare(items).scores(queries)
    expected = [lucene(query, items, 1.2, 0.6) for query in queries]
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


def test_an_item_without_a_shared_word_scores_zero_even_if_both_have_no_word() -> None:
    scores = BM25().prepare(["cat", "!", "?"]).scores(["!", "...", "dog"])
    np.testing.assert_array_equal(scores, np.zeros((3, 3)))


@pytest.mark.parametrize("other", [BM25(k1=1.4), BM25(b=0.7)], ids=["k1", "b"])
def test_settings_are_part_of_the_fingerprint(other: BM25) -> None:
    assert BM25().fingerprint == BM25().fingerprint != other.fingerprint
