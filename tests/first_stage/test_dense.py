"""Dual encoders: known vectors, and clear errors where vectors do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import Dense, GivenVectors, OnnxEncoder, OnnxOptions, SentenceTransformersEncoder
from crossknn.errors import InputError

TEXTS = ["cat", "bird cat bone", "", "water " * 50, "zebra !"]


def test_onnx_encoder_gives_the_known_vectors_and_cuts_long_texts(tiny: Any, tmp_path: Path) -> None:
    encoder = OnnxEncoder(tiny.encoder(tmp_path), OnnxOptions(batch_size=2, max_length=16))
    expected = [tiny.embedding(text, max_length=16) for text in TEXTS]
    vectors = encoder.embed(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, rtol=1e-4, atol=1e-5)


def test_onnx_encoder_fingerprint(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path / "0")
    made = [
        OnnxEncoder(folder),
        OnnxEncoder(tiny.encoder(tmp_path / "1", seed=1)),
        OnnxEncoder(folder, OnnxOptions(max_length=16)),
    ]
    assert len({encoder.fingerprint for encoder in made}) == 3
    assert OnnxEncoder(folder).fingerprint == made[0].fingerprint


@pytest.mark.parametrize("texts", [["cat"], ["cat", "dog"], ["cat", "dog bone"]], ids=["one", "alike", "mixed"])
def test_an_encoder_without_pooling_is_refused(tiny: Any, tmp_path: Path, texts: list[str]) -> None:
    encoder = OnnxEncoder(tiny.encoder(tmp_path, pooled=False))
    with pytest.raises(InputError, match="pool"):
        encoder.embed(texts)


def test_vectors_given_for_items_are_used_and_may_be_of_any_number_type() -> None:
    encoder = GivenVectors({"q": np.array([0.5, 0.25])})
    for dtype in ("f4", "f8", "f2", "i8"):
        bound = Dense(encoder, np.array([[2, 0], [0, 4], [1, 1]], dtype=dtype)).prepare(["x", "y", "z"])
        np.testing.assert_array_equal(bound.scores(["q"]), [[1, 1, 0.75]])


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((2, 2)), "3 items"),
        (np.ones(3), "3 items"),
        (np.array([[1, 1], [1, np.nan], [1, 1]]), "finite"),
        (np.array([[1, 1], [1, np.inf], [1, 1]]), "finite"),
    ],
    ids=["too few", "one axis", "nan", "infinite"],
)
def test_item_vectors_that_do_not_fit(vectors: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Dense(GivenVectors({}), vectors).prepare(["x", "y", "z"])


@pytest.mark.parametrize("vector", [np.ones(3), np.array([1, np.nan])], ids=["width", "nan"])
def test_query_vectors_that_do_not_fit(vector: np.ndarray) -> None:
    bound = Dense(GivenVectors({"q": vector, "x": np.ones(2)})).prepare(["x"])
    with pytest.raises(InputError, match="query vectors"):
        bound.scores(["q"])


def test_given_vectors_names_the_text_it_does_not_know_and_refuses_mixed_widths() -> None:
    with pytest.raises(InputError, match="'unknown'"):
        GivenVectors({"x": np.ones(2)}).embed(["x", "unknown"])
    with pytest.raises(InputError, match="width"):
        GivenVectors({"x": np.ones(2), "y": np.ones(3)}).embed(["x", "y"])


@pytest.mark.torch
def test_sentence_transformers_encoder_takes_loaded_models_and_tells_them_apart(
    tiny_torch: Any, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = tiny_torch.encoder(tmp_path / "0")
    loaded = library.SentenceTransformer(str(folder), device="cpu")
    encoders = [SentenceTransformersEncoder(loaded), SentenceTransformersEncoder(folder, device="cpu")]
    other = SentenceTransformersEncoder(tiny_torch.encoder(tmp_path / "1", seed=1), device="cpu")
    assert encoders[0].fingerprint == encoders[1].fingerprint != other.fingerprint
    first, second = (encoder.embed(TEXTS) for encoder in encoders)
    np.testing.assert_array_equal(first, second)
    assert first.shape == (len(TEXTS), 16)
    assert not np.allclose(first, other.embed(TEXTS))


def test_a_cross_encoder_is_no_encoder(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is it a cross-encoder"):
        OnnxEncoder(tiny.cross_encoder(tmp_path))
