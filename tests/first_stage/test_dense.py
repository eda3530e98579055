"""Dual encoders: known vectors, and clear errors where vectors do not fit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import Dense, GivenVectors, LateInteraction, OnnxEncoder, OnnxOptions, SentenceTransformersEncoder
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


def _pooled_by(folder: Path, config: Any) -> Path:
    (folder / "1_Pooling").mkdir(parents=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": True}, "cls"),
        ({"pooling_mode": "mean", "embedding_dimension": 5}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
    ],
)
@pytest.mark.parametrize("normalised", [False, True])
def test_token_vectors_are_pooled_as_the_folder_says(
    tiny: Any, tmp_path: Path, config: Any, mode: str, normalised: bool
) -> None:
    modules = ["Transformer", "Pooling", *(["Normalize"] if normalised else [])]
    folder = tiny.encoder(_pooled_by(tmp_path, config), outputs=["tokens"], modules=modules)
    encoder = OnnxEncoder(folder, OnnxOptions(batch_size=2))
    tokens = encoder.embed_tokens(TEXTS)
    assert [len(own) for own in tokens] == [3, 5, 2, 32, 4]
    expected = np.array([own.mean(axis=0) if mode == "mean" else own[0] for own in tokens])
    if normalised:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    vectors = encoder.embed(TEXTS)
    np.testing.assert_allclose(vectors, expected, rtol=1e-5, atol=1e-6)
    if mode == "mean" and not normalised:
        np.testing.assert_allclose(vectors, [tiny.embedding(t) for t in TEXTS], rtol=1e-4, atol=1e-5)
    assert encoder.embed([]).shape[0] == 0


def test_of_two_outputs_each_is_taken_for_what_it_is(tiny: Any, tmp_path: Path) -> None:
    encoder = OnnxEncoder(tiny.encoder(tmp_path, outputs=["tokens", "sentence_embedding"]))
    np.testing.assert_allclose(encoder.embed(TEXTS), [tiny.embedding(t) for t in TEXTS], rtol=1e-4, atol=1e-5)
    means = [own.mean(axis=0) for own in encoder.embed_tokens(TEXTS)]
    np.testing.assert_allclose(means, encoder.embed(TEXTS), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("modules", "config", "message"),
    [
        ([], {}, "names nothing; export the model with its pooling"),
        (["Transformer", "Pooling", "Dense"], {"pooling_mode": "mean"}, "'Dense'"),
        (["Transformer", "Pooling"], {"pooling_mode_max_tokens": True}, r"\['max'\], and only 'mean' and 'cls'"),
        (["Transformer", "Pooling"], {}, r"1_Pooling.config\.json is missing, or names no pooling mode"),
        (["Transformer", "Pooling"], {"pooling_mode": "mean", "include_prompt": False}, "of all of them"),
        (["Transformer", "Pooling"], {"pooling_mode": ["mean", "cls"]}, "only 'mean' and 'cls'"),
        (["Transformer", "Pooling"], [], "holds no JSON object"),
    ],
)
def test_tokens_that_nobody_knows_how_to_pool_are_refused(
    tiny: Any, tmp_path: Path, modules: list[str], config: Any, message: str
) -> None:
    folder = tiny.encoder(_pooled_by(tmp_path, config), outputs=["tokens"], modules=modules)
    with pytest.raises(InputError, match=message):
        OnnxEncoder(folder)


def test_a_default_prompt_is_written_before_every_text(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path)
    plain = OnnxEncoder(folder)
    config = {"prompts": {"query": "cat ", "other": "dog "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config))
    prompted = OnnxEncoder(folder)
    np.testing.assert_array_equal(prompted.embed(["bird", ""]), plain.embed(["cat bird", "cat "]))
    assert prompted.fingerprint != plain.fingerprint
    (folder / "config_sentence_transformers.json").write_text(json.dumps(config | {"default_prompt_name": None}))
    assert OnnxEncoder(folder).fingerprint == plain.fingerprint


def test_a_pooled_model_has_no_token_vectors(tiny: Any, tmp_path: Path) -> None:
    encoder = OnnxEncoder(tiny.encoder(tmp_path))
    with pytest.raises(InputError, match="gives one for a text; use SentenceTransformersEncoder, or OnnxEncoder with"):
        LateInteraction(encoder)
    with pytest.raises(InputError, match="one vector for a text, and none for its tokens"):
        encoder.embed_tokens(["cat"])


def test_a_sentence_transformers_folder_is_cut_where_its_model_cuts(tiny: Any, tmp_path: Path) -> None:
    folder = tiny.encoder(tmp_path)
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 512}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 20}))
    expected = [tiny.embedding(text, max_length=20) for text in TEXTS]
    np.testing.assert_allclose(OnnxEncoder(folder).embed(TEXTS), expected, rtol=1e-4, atol=1e-5)


def test_vectors_given_for_items_are_used_and_may_be_of_any_number_type() -> None:
    encoder = GivenVectors({"q": np.array([0.5, 0.25])}, name="given")
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
        Dense(GivenVectors({}, name="given"), vectors).prepare(["x", "y", "z"])


@pytest.mark.parametrize("vector", [np.ones(3), np.array([1, np.nan])], ids=["width", "nan"])
def test_query_vectors_that_do_not_fit(vector: np.ndarray) -> None:
    bound = Dense(GivenVectors({"q": vector, "x": np.ones(2)}, name="given")).prepare(["x"])
    with pytest.raises(InputError, match="query vectors"):
        bound.scores(["q"])


def test_given_vectors_names_the_text_it_does_not_know_and_refuses_mixed_widths() -> None:
    with pytest.raises(InputError, match="'unknown'"):
        GivenVectors({"x": np.ones(2)}, name="given").embed(["x", "unknown"])
    with pytest.raises(InputError, match="width"):
        GivenVectors({"x": np.ones(2), "y": np.ones(3)}, name="given").embed(["x", "y"])


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
