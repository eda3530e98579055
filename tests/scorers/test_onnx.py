"""What the ONNX scorer promises beyond the contract: truncation that is counted, and errors that say what to do."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from crossknn import CrossKNNWarning, OnnxOptions, OnnxScorer
from crossknn.errors import InputError, MissingExtraError
from crossknn.onnx_model import _PROVIDERS

LONG, SHORT = "water " * 60, "cat"


def test_truncation_is_counted_and_warned_of_once(tiny: Any, tmp_path: Path) -> None:
    bound = OnnxScorer(tiny.cross_encoder(tmp_path)).prepare([SHORT, LONG, LONG + "dog"])
    zero = np.zeros(3, dtype=np.int64)
    with pytest.warns(CrossKNNWarning, match="2 of 3 pairs are longer than 32 tokens"):
        bound.score([SHORT], zero, np.arange(3))
    scores = bound.score([LONG], zero, np.arange(3))  # a second warning would be an error here
    assert bound.truncated == 5
    expected = [tiny.logit(LONG, item) for item in (SHORT, LONG, LONG + "dog")]
    np.testing.assert_array_equal(scores, expected)


def test_nothing_is_said_where_nothing_is_cut(tiny: Any, tmp_path: Path) -> None:
    exactly = " ".join(["cat"] * 28)  # and [CLS] cat [SEP] [SEP]: 32 tokens
    bound = OnnxScorer(tiny.cross_encoder(tmp_path)).prepare([exactly])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bound.score(["cat"], np.array([0]), np.array([0]))
    assert bound.truncated == 0


def test_states_are_the_means_over_an_items_own_tokens_read_with_an_empty_query(tiny: Any, tmp_path: Path) -> None:
    scorer = OnnxScorer(tiny.cross_encoder(tmp_path, states=True), OnnxOptions(batch_size=2))
    texts = ["bird fish", LONG, "", "cat", "bone bone bone dog"]
    values, tokenizer = tiny.values(0), tiny.make_tokenizer()
    of_text = [values[tokenizer.encode(text, add_special_tokens=False).ids] for text in texts]
    low = [float(np.mean(values)) if len(values) else 0.0 for values in of_text]
    with pytest.warns(CrossKNNWarning, match="1 of 5 items are longer than 32 tokens"):
        states = scorer.states(texts)
    np.testing.assert_allclose(states[..., 0], [[mean, 10 * mean] for mean in low], rtol=1e-6)
    assert len(scorer.states([])) == 0
    assert scorer.prepare(["cat"]).score(["dog"], np.array([0]), np.array([0]))[0] == tiny.logit("dog", "cat")
    with pytest.raises(InputError, match="shows its logit alone; export it with further outputs"):
        OnnxScorer(tiny.cross_encoder(tmp_path / "plain")).states(texts)


@pytest.mark.parametrize("style", ["bert", "roberta", "none"])
def test_pairs_are_joined_as_the_tokenizer_joins_them(tiny: Any, tmp_path: Path, style: str) -> None:
    bound = OnnxScorer(tiny.cross_encoder(tmp_path, style=style)).prepare(["bird fish", "cat", "bone bone"])
    scores = bound.score(["dog cat"], np.zeros(3, dtype=np.int64), np.arange(3))
    expected = [tiny.logit("dog cat", item, style=style) for item in ("bird fish", "cat", "bone bone")]
    np.testing.assert_array_equal(scores, expected)


def test_a_model_with_two_logits_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 numbers a pair; a cross-encoder with one logit"):
        OnnxScorer(tiny.cross_encoder(tmp_path, n_logits=2))


def test_an_encoder_without_a_head_is_refused(tiny: Any, tmp_path: Path) -> None:
    bound = OnnxScorer(tiny.encoder(tmp_path, outputs=["tokens"])).prepare(["cat"])
    with pytest.raises(InputError, match="one vector a token"):
        bound.score(["dog"], np.array([0]), np.array([0]))


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.onnx", None, r"no model\.onnx in .* export"),
        ("tokenizer.json", None, r"tokenizer\.json is not there"),
        ("model.onnx", b"no model", "cannot open"),
        ("tokenizer.json", b"{}", "is no tokenizer"),
        ("config.json", b"{", r"config\.json"),
        ("config.json", b"[]", r"config\.json"),
    ],
    ids=["no model", "no tokenizer", "broken model", "broken tokenizer", "broken config", "foreign config"],
)
def test_a_folder_that_cannot_be_used(
    tiny: Any, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    tiny.cross_encoder(tmp_path)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(InputError, match=message):
        OnnxScorer(tmp_path)


def test_the_model_may_lie_in_the_folder_onnx(tiny: Any, tmp_path: Path) -> None:
    tiny.cross_encoder(tmp_path)
    plain = OnnxScorer(tmp_path).fingerprint
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")
    assert OnnxScorer(tmp_path).fingerprint == plain


@pytest.mark.parametrize(
    "options", [{"device": "abacus"}, {"batch_size": 0}, {"max_length": 7}], ids=lambda o: next(iter(o))
)
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        OnnxOptions(**options)


def test_a_device_that_this_onnxruntime_cannot_use(tiny: Any, tmp_path: Path) -> None:
    available = onnxruntime.get_available_providers()
    device = next(name for name, providers in _PROVIDERS.items() if providers[0] not in available)
    with pytest.raises(MissingExtraError, match=f"no {_PROVIDERS[device][0]}; install"):
        OnnxScorer(tiny.cross_encoder(tmp_path), OnnxOptions(device=device))


def test_weights_kept_in_a_file_of_their_own_are_part_of_the_fingerprint(tiny: Any, tmp_path: Path) -> None:
    scorers = [OnnxScorer(tiny.cross_encoder(tmp_path / str(s), seed=s, external=True)) for s in (0, 1)]
    zero = np.array([0])
    assert len({float(s.prepare(["cat dog"]).score(["bird"], zero, zero)[0]) for s in scorers}) == 2
    assert len({s.fingerprint.model for s in scorers}) == 2


@pytest.mark.parametrize(
    ("config", "tokenizer_config", "expected"),
    [
        ({"max_length": 40, "max_position_embeddings": 64}, {"model_max_length": 16}, 40),
        ({"max_position_embeddings": 64}, {"model_max_length": 48}, 48),
        ({"max_position_embeddings": 64}, {"model_max_length": 1e30}, 64),
        ({"max_length": None, "max_position_embeddings": 64}, {"model_max_length": None}, 64),
        ({}, {}, 512),
    ],
    ids=["said", "smaller", "no limit", "null", "nothing"],
)
def test_the_longest_input_is_read_from_the_configs(
    tiny: Any, tmp_path: Path, config: dict[str, Any], tokenizer_config: dict[str, Any], expected: int
) -> None:
    tiny.cross_encoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(tokenizer_config))
    assert OnnxScorer(tmp_path).fingerprint.model.endswith(f"max_length={expected}")
    if positions := config.get("max_position_embeddings"):
        with pytest.raises(InputError, match=f"max_length is {positions + 1}, and .* takes {positions} tokens"):
            OnnxScorer(tmp_path, OnnxOptions(max_length=positions + 1))
