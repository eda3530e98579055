"""TF-IDF against its formula, written out word by word."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest

from crossknn import TfIdf
from crossknn.errors import MissingExtraError

ITEMS = ["cat cat dog", "dog", "bird of prey", "!", "the cat and the bird"]


def _cosines(query: str, items: list[str]) -> list[float]:
    """Cosine of ``tf * (ln((1 + N) / (1 + df)) + 1)``."""
    documents = [re.findall(r"\b\w\w+\b", item.lower()) for item in items]
    known = sorted({word for words in documents for word in words})
    idf = {w: math.log((1 + len(items)) / (1 + sum(w in words for words in documents))) + 1 for w in known}

    def vector(words: list[str]) -> np.ndarray:
        weights = np.array([words.count(word) * idf[word] for word in known])
        return weights / (np.linalg.norm(weights) or 1)

    asked = vector(re.findall(r"\b\w\w+\b", query.lower()))
    return [float(asked @ vector(words)) for words in documents]


def test_tfidf_is_its_formula() -> None:
    queries = ["CAT dog dog", "the bird", "zebra", "prey zebra"]
    scores = TfIdf().prepare(ITEMS).scores(queries)
    np.testing.assert_allclose(scores, [_cosines(query, ITEMS) for query in queries], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("items", [[], ["!", "?"]], ids=["no items", "no words"])
def test_without_any_word_every_score_is_zero(items: list[str]) -> None:
    np.testing.assert_array_equal(TfIdf().prepare(items).scores(["cat", "!"]), np.zeros((2, len(items))))


def test_options_work_and_are_part_of_the_fingerprint() -> None:
    letters = TfIdf(analyzer="char_wb", ngram_range=(3, 5))
    assert letters.prepare(["hydrocephalus", "tetanus"]).scores(["hidrocephalus"]).argmax() == 0
    assert len({s.fingerprint for s in (TfIdf(), letters, TfIdf(ngram_range=(1, 2)), TfIdf(sublinear_tf=True))}) == 4


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crossknn\[tfidf\]'"):
        TfIdf()
