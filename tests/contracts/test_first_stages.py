"""Every first stage keeps the promises of ``first_stage.base``."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from crossknn import (
    BM25,
    Dense,
    GivenVectors,
    Hybrid,
    LateInteraction,
    OnnxEncoder,
    OnnxOptions,
    OnnxScorer,
    RandomFirstStage,
    SentenceTransformersEncoder,
    TfIdf,
    WithStates,
    WithVectors,
)
from crossknn.first_stage import FirstStage, VectorFirstStage
from crossknn.first_stage.base import kept_of, updated

pytestmark = pytest.mark.filterwarnings("ignore:1 of [1-9] items are longer than 32 tokens")
QUERIES = ["cat", "water brain", "dog dog bird fish water", "!", "zebra", "skin bone " * 9, *"abcdefghij"]
ITEMS = ["bird cat", "fish", "?", "skin bone water " * 6, "cat cat", "brain", "zebra", "bone " * 40, "water"]


def _given(tiny: Any, tiny_torch: Any, folder: Any) -> Dense:
    rng = np.random.default_rng(0)
    return Dense(GivenVectors({text: rng.normal(size=33) for text in QUERIES + ITEMS}, name="given"))


def _bm25(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return BM25()


def _tfidf(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return TfIdf()


def _bm25_with_vectors(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return WithVectors(BM25(), _given(tiny, tiny_torch, folder))


def _hybrid(tiny: Any, tiny_torch: Any, folder: Any) -> Dense:
    return Hybrid(_given(tiny, tiny_torch, folder).encoder, dimensions=4, weight=0.5)


class _Words:
    """A vector for each word of a text; none for a text without one."""

    fingerprint = "words"

    def embed_tokens(self, texts: Sequence[str]) -> list[Any]:
        words = [[word for word in text.split() if word != "?"] for text in texts]
        return [
            np.array([[hash_of(f"{w}{n}") for n in range(12)] for w in of_text]).reshape(-1, 12) for of_text in words
        ]


def hash_of(text: str) -> float:
    """A number from -1 to 1 that depends on all of a text."""
    return zlib.crc32(text.encode()) / 2**31 - 1


def _late(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return LateInteraction(_Words(), dimensions=7)


def _late_with_vectors(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return WithVectors(LateInteraction(_Words()), _given(tiny, tiny_torch, folder))


def _late_sentence_transformers(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    pytest.importorskip("sentence_transformers")
    return LateInteraction(SentenceTransformersEncoder(str(tiny_torch.encoder(folder)), device="cpu"))


def _late_onnx(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return LateInteraction(OnnxEncoder(tiny.encoder(folder, outputs=["tokens", "sentence_embedding"])))


def _states(tiny: Any, tiny_torch: Any, folder: Any) -> Dense:
    return WithStates(
        _hybrid(tiny, tiny_torch, folder), OnnxScorer(tiny.cross_encoder(folder, states=True)), dimensions=2
    )


def _late_with_states(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return WithVectors(LateInteraction(_Words()), _states(tiny, tiny_torch, folder))


def _random(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return RandomFirstStage(3)


def _onnx(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    return Dense(OnnxEncoder(tiny.encoder(folder), OnnxOptions(batch_size=4)))


def _sentence_transformers(tiny: Any, tiny_torch: Any, folder: Any) -> FirstStage:
    pytest.importorskip("sentence_transformers")
    return Dense(SentenceTransformersEncoder(str(tiny_torch.encoder(folder)), device="cpu", batch_size=4))


@pytest.fixture(
    scope="module",
    params=[
        _given,
        _bm25,
        _bm25_with_vectors,
        _tfidf,
        _hybrid,
        _random,
        _late,
        _late_with_vectors,
        _late_onnx,
        _states,
        _late_with_states,
        _onnx,
        pytest.param(_sentence_transformers, marks=pytest.mark.torch),
        pytest.param(_late_sentence_transformers, marks=pytest.mark.torch),
    ],
    ids=lambda make: make.__name__[1:],
)
def first_stage(
    request: pytest.FixtureRequest, tiny: Any, tiny_torch: Any, tmp_path_factory: pytest.TempPathFactory
) -> FirstStage:
    made: FirstStage = request.param(tiny, tiny_torch, tmp_path_factory.mktemp("models"))
    return made


@pytest.mark.parametrize("queries", [QUERIES, QUERIES[:1], []], ids=len)
def test_every_query_scores_every_item(first_stage: FirstStage, queries: list[str]) -> None:
    scores = first_stage.prepare(ITEMS).scores(queries)
    assert scores.shape == (len(queries), len(ITEMS))
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert first_stage.fingerprint


def test_a_querys_row_is_the_same_bits_alone_and_in_any_batch(first_stage: FirstStage) -> None:
    bound = first_stage.prepare(ITEMS)
    together = bound.scores(QUERIES)
    alone = np.vstack([bound.scores([query]) for query in QUERIES])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(bound.scores(QUERIES[::-1]), alone[::-1])
    assert len(np.unique(together)) > 5


def test_scores_are_reproduced_by_a_second_one(first_stage: FirstStage) -> None:
    once, twice = (first_stage.prepare(ITEMS).scores(QUERIES) for _ in range(2))
    np.testing.assert_array_equal(once, twice)


def test_saved_vectors_are_not_made_again(first_stage: FirstStage, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = first_stage.prepare(ITEMS)
    if not isinstance(bound, VectorFirstStage):
        pytest.skip("this first stage has no vectors")
    embedded: list[str] = []
    dense = first_stage.dense if isinstance(first_stage, WithVectors) else first_stage
    encoder = dense.encoder  # type: ignore[attr-defined]
    embed, embed_tokens = encoder.embed, _Words.embed_tokens

    def spy(texts: Sequence[str]) -> Any:
        embedded.extend(texts)
        return embed(texts)

    def spy_tokens(words: _Words, texts: Sequence[str]) -> Any:
        embedded.extend(texts)
        return embed_tokens(words, texts)

    monkeypatch.setattr(encoder, "embed", spy)
    monkeypatch.setattr(_Words, "embed_tokens", spy_tokens)
    again = first_stage.prepare(ITEMS, kept_of(bound))
    assert not embedded
    vectors = again.embed_queries(QUERIES)
    np.testing.assert_array_equal(again.scores_given(QUERIES, vectors), bound.scores(QUERIES))
    assert set(embedded) == set(QUERIES)


def test_of_other_items_only_the_new_are_prepared_and_as_if_they_had_been_there(
    first_stage: FirstStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """New items that say what old ones say score as these do, and old ones as before, to the last bit or nearly."""
    bound = first_stage.prepare(ITEMS)
    rows = np.array([8, -1, 2, 3, -1, 4, 5, -1, 0])
    texts = [
        ITEMS[row] if row >= 0 else ITEMS[says] for row, says in zip(rows, [0, 1, 0, 0, 6, 0, 0, 8, 0], strict=True)
    ]
    of_old = [ITEMS.index(text) for text in texts]
    done = updated(first_stage, bound, texts, rows)
    again = updated(first_stage, done, ITEMS, np.array([8, 1, 2, 3, 5, 6, 4, -1, 0]))
    loaded = first_stage.prepare(texts, kept_of(done) or None)
    np.testing.assert_array_equal(loaded.scores(QUERIES), done.scores(QUERIES))
    if not kept_of(bound):  # what is prepared in a moment is prepared for all of them
        np.testing.assert_array_equal(done.scores(QUERIES), first_stage.prepare(texts).scores(QUERIES))
        return
    expected = bound.scores(QUERIES)[:, of_old]
    if isinstance(first_stage, WithVectors) and not isinstance(first_stage.first, LateInteraction):
        expected = first_stage.first.prepare(texts).scores(QUERIES)
    np.testing.assert_allclose(done.scores(QUERIES), expected, rtol=1e-5, atol=1e-5)
    fewer = updated(first_stage, bound, ITEMS[2:], np.arange(2, len(ITEMS)))
    if not isinstance(first_stage, WithVectors) or isinstance(first_stage.first, LateInteraction):
        np.testing.assert_allclose(fewer.scores(QUERIES), bound.scores(QUERIES)[:, 2:], rtol=1e-5, atol=1e-5)
    if isinstance(bound, VectorFirstStage):
        np.testing.assert_array_equal(fewer.item_vectors, bound.item_vectors[2:])
        np.testing.assert_array_equal(done.item_vectors[rows >= 0], bound.item_vectors[rows[rows >= 0]])
        np.testing.assert_allclose(done.item_vectors, bound.item_vectors[of_old], atol=1e-5)
        np.testing.assert_allclose(again.item_vectors, bound.item_vectors, atol=1e-5)
        np.testing.assert_array_equal(done.embed_queries(QUERIES), bound.embed_queries(QUERIES))


def test_scores_are_inner_products_of_the_vectors(first_stage: FirstStage) -> None:
    bound = first_stage.prepare(ITEMS)
    if not isinstance(bound, VectorFirstStage) or isinstance(first_stage, WithVectors):
        pytest.skip("this first stage does not rank by vectors")
    expected = bound.embed_queries(QUERIES).astype("f8") @ bound.item_vectors.astype("f8").T
    np.testing.assert_allclose(bound.scores(QUERIES), expected, rtol=1e-4, atol=1e-4)


def test_vectors_beside_another_first_stage_are_the_dual_encoders(tiny: Any, tiny_torch: Any, tmp_path: Any) -> None:
    dense = _given(tiny, tiny_torch, tmp_path)
    both, alone = WithVectors(BM25(), dense).prepare(ITEMS), dense.prepare(ITEMS)
    np.testing.assert_array_equal(both.item_vectors, alone.item_vectors)
    np.testing.assert_array_equal(both.embed_queries(QUERIES), alone.embed_queries(QUERIES))
    np.testing.assert_array_equal(both.scores(QUERIES), BM25().prepare(ITEMS).scores(QUERIES))
