"""The hybrid first stage against its two halves."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from crossknn import Dense, GivenVectors, Hybrid, TfIdf
from crossknn.errors import InputError, MissingExtraError

ITEMS = ["hydrocephalus", "tetanus of newborn", "acute hydrocephaly", "tetany", "newborn", "?"]
QUERIES = ["hidrocephalus", "newborn tetanus", "zebra", "!"]


@pytest.fixture
def encoder() -> GivenVectors:
    rng = np.random.default_rng(0)
    return GivenVectors({text: rng.normal(size=3) for text in ITEMS + QUERIES}, name="given")


def test_with_every_dimension_a_score_is_the_dual_encoders_and_the_cosine_of_tfidf(encoder: GivenVectors) -> None:
    bound = Hybrid(encoder, weight=0.3).prepare(ITEMS)
    lexical = TfIdf(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True).prepare(ITEMS).scores(QUERIES)
    expected = Dense(encoder).prepare(ITEMS).scores(QUERIES) + 0.3 * lexical
    np.testing.assert_allclose(bound.scores(QUERIES), expected, atol=1e-5)
    assert bound.item_vectors.shape == (len(ITEMS), 3 + len(ITEMS))
    assert lexical[0, 0] > 0.2  # "idrocephalus" is in both


def test_fewer_dimensions_keep_what_most_items_share(encoder: GivenVectors) -> None:
    whole, narrow = (Hybrid(encoder, dimensions=d).prepare(ITEMS) for d in (6, 3))
    a, b = (bound.item_vectors[:, 3:] for bound in (whole, narrow))
    left = np.linalg.norm(a @ a.T - b @ b.T)
    kept = np.linalg.eigvalsh((a @ a.T).astype("f8"))
    assert left == pytest.approx(np.linalg.norm(kept[:3]), rel=1e-4)  # the best that three can do
    np.testing.assert_allclose(narrow.scores(QUERIES)[2:], Dense(encoder).prepare(ITEMS).scores(QUERIES)[2:], atol=1e-6)


@pytest.mark.parametrize("items", [["", " "], ["cat"]], ids=["no n-grams", "one item"])
def test_where_there_is_little_to_count(items: list[str]) -> None:
    encoder = GivenVectors({text: np.ones(2) for text in [*items, "cat", "!"]}, name="given")
    scores = Hybrid(encoder).prepare(items).scores(["cat", "!"])
    expected = np.full((2, len(items)), 2.0)
    expected[0] += [item == "cat" for item in items]
    np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_vectors_of_the_encoder_that_are_known_are_not_made_again(encoder: GivenVectors) -> None:
    known = Dense(encoder).prepare(ITEMS).item_vectors
    again = Hybrid(GivenVectors({}, name="given"), known).prepare(ITEMS)
    np.testing.assert_array_equal(again.item_vectors, Hybrid(encoder).prepare(ITEMS).item_vectors)


def test_settings_are_checked_and_part_of_the_fingerprint(encoder: GivenVectors) -> None:
    made = (Hybrid(encoder), Hybrid(encoder, dimensions=8), Hybrid(encoder, weight=2.0), Dense(encoder))
    assert len({first_stage.fingerprint for first_stage in made}) == 4
    for options in ({"dimensions": 0}, {"weight": 0.0}, {"weight": float("inf")}):
        with pytest.raises(InputError, match="above 0"):
            Hybrid(encoder, **options)


def test_without_scikit_learn_the_extra_is_named(encoder: GivenVectors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.feature_extraction.text", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crossknn\[tfidf\]'"):
        Hybrid(encoder)
