"""Late interaction against its definition, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import GivenVectors, LateInteraction, SentenceTransformersEncoder
from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.first_stage import late
from crossknn.vectors import top_k

RNG = np.random.default_rng(3)
WORDS = {word: RNG.normal(size=10) for word in "abcdefghij"}
ITEMS = ["a b c", "", "d", "e f g h", "a", "j i h g f e d c b a", "b b b"]
QUERIES = ["a", "b f", "", "j j a"]


class Given:
    """Words' own vectors."""

    fingerprint = "given"

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        return [np.array([WORDS[word] for word in text.split()]).reshape(-1, 10) for text in texts]


def _defined(query: str, item: str) -> float:
    unit = {word: vector / np.linalg.norm(vector) for word, vector in WORDS.items()} | {"": np.zeros(10)}
    mean = np.mean([unit[word] for text in ITEMS for word in text.split(" ")], axis=0)

    def cosine(a: str, b: str) -> float:
        x, y = unit[a] - mean, unit[b] - mean
        return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))

    def nearest(words: str, others: str) -> float:
        highest = [max(cosine(a, b) for b in others.split(" ")) for a in words.split(" ")]
        return float(np.mean([np.exp(3 * (m - 1)) for m in highest]))

    return (nearest(query, item) + nearest(item, query)) / 2


@pytest.mark.parametrize("at_once", [1, 3, 6, 10_000])
def test_scores_are_how_near_the_nearest_tokens_are_both_ways(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    monkeypatch.setattr(late, "_AT_ONCE", at_once)
    expected = [[_defined(query, item) for item in ITEMS] for query in QUERIES]
    np.testing.assert_allclose(LateInteraction(Given()).prepare(ITEMS).scores(QUERIES), expected, atol=1e-5)


def test_narrow_tokens_are_nearly_as_good_where_words_lie_in_few_dimensions(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = {word: vector * ([1.0] * 4 + [1e-4] * 6) for word, vector in WORDS.items()}
    for word, vector in flat.items():
        monkeypatch.setitem(WORDS, word, vector)
    whole, narrow = (LateInteraction(Given(), dimensions=d).prepare(ITEMS) for d in (10, 4))
    assert narrow.kept["tokens"].shape == (len(" ".join(ITEMS).split()) + 1, 4)  # and one for the empty item
    np.testing.assert_allclose(narrow.scores(QUERIES), whole.scores(QUERIES), atol=1e-3)


@pytest.mark.parametrize("allowed", [range(len(ITEMS)), [1, 2, 3, 5, 6], [4, 6], []])
@pytest.mark.parametrize("others", ["told", "level", "reversed"])
def test_behind_another_only_its_best_that_are_allowed_are_looked_at(others: str, allowed: Sequence[int]) -> None:
    bound = LateInteraction(Given(), shortlist=4).prepare(ITEMS)
    mask = np.isin(np.arange(len(ITEMS)), allowed)
    whole = bound.scores(QUERIES)
    given = {"told": 10 * whole + 3, "level": np.zeros_like(whole), "reversed": -whole}[others]
    scores = bound.scores_after(QUERIES, given, mask)
    for row, (query_scores, other) in enumerate(zip(scores, given, strict=True)):
        best = np.flatnonzero(mask)[top_k(other[mask], min(4, len(allowed)))]
        np.testing.assert_allclose(query_scores[best], whole[row, best], atol=1e-6)
        below = np.setdiff1d(np.arange(len(ITEMS)), best)
        level = whole[row, best].mean() if len(best) else 0.0
        expected = (
            whole[row, below] if others == "told" and len(np.unique(other[best])) > 1 else np.full(len(below), level)
        )
        np.testing.assert_allclose(query_scores[below], expected, atol=1e-5)
    wide = LateInteraction(Given(), shortlist=len(ITEMS)).prepare(ITEMS)
    np.testing.assert_array_equal(wide.scores_after(QUERIES, given), whole)


@pytest.mark.parametrize("at_once", [1, 5, 10_000])
@pytest.mark.parametrize("items", [[], [3], [2, 3, 4], [0, 2, 1, 3], [0, 0, 2], [6, 5, 0]])
def test_scores_of_some_items(monkeypatch: pytest.MonkeyPatch, items: Sequence[int], at_once: int) -> None:
    monkeypatch.setattr(late, "_AT_ONCE", at_once)
    bound = LateInteraction(Given()).prepare(ITEMS)
    for query, whole in zip(QUERIES, bound.scores(QUERIES), strict=True):
        some = bound.scores_of(query, np.array(items, dtype=int))
        np.testing.assert_allclose(some, whole[items] if items else [], atol=1e-6)


def test_no_items() -> None:
    assert LateInteraction(Given()).prepare([]).scores(QUERIES).shape == (len(QUERIES), 0)


def test_what_has_no_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="gives one for a text"):
        LateInteraction(GivenVectors({}, name="given"))

    class Narrow(Given):
        gives_tokens = False

    with pytest.raises(InputError, match="gives one for a text"):
        LateInteraction(Narrow())  # not after all items were read
    for wrong in ({"dimensions": 0}, {"shortlist": 0}):
        with pytest.raises(InputError, match="dimensions and shortlist must be 1 or more"):
            LateInteraction(Given(), **wrong)


def test_what_was_kept_of_other_items_is_refused() -> None:
    kept = LateInteraction(Given()).prepare(ITEMS).kept
    for items, given in ((ITEMS[1:], kept), (ITEMS, {"vectors": kept["tokens"]})):
        with pytest.raises(InputError, match="is not of"):
            LateInteraction(Given()).prepare(items, given)


@pytest.mark.torch
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_no_token_and_half_precision_will_do(tiny_torch: Any, tmp_path: Path, side: str) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.SentenceTransformer(str(tiny_torch.encoder(tmp_path)), device="cpu")
    model.tokenizer.padding_side = side
    texts = ["cat", "cat dog bird", "dog dog"]
    encoder = SentenceTransformersEncoder(model)
    together = encoder.embed_tokens(texts)
    for own, text in zip(together, texts, strict=True):
        (alone,) = encoder.embed_tokens([text])
        assert own.shape == alone.shape
        if side == "right":  # on the left it moves the positions that this model counts
            np.testing.assert_allclose(own, alone, atol=1e-5)
    halved = SentenceTransformersEncoder(model.bfloat16()).embed_tokens(texts)
    assert [(t.shape, t.dtype) for t in halved] == [(t.shape, np.float32) for t in together]


@pytest.mark.parametrize("wrong", [np.ones(10), np.full((2, 10), np.nan)])
def test_token_vectors_that_are_none_are_refused(monkeypatch: pytest.MonkeyPatch, wrong: FloatArray) -> None:
    monkeypatch.setattr(Given, "embed_tokens", lambda self, texts: [wrong for _ in texts])
    with pytest.raises(InputError, match="token vectors"):
        LateInteraction(Given()).prepare(ITEMS)
