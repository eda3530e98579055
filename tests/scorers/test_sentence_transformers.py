"""What the sentence-transformers scorer promises beyond the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import SentenceTransformersEncoder, SentenceTransformersScorer
from crossknn.errors import CrossKNNWarning, InputError, MissingExtraError


@pytest.mark.parametrize("kind", [SentenceTransformersScorer, SentenceTransformersEncoder])
def test_without_the_extra_the_error_names_it(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'crossknn\[torch\]'"):
        kind("model")


@pytest.mark.torch
def test_a_loaded_model_scores_raw_logits_like_its_folder(tiny_torch: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = tiny_torch.cross_encoder(tmp_path)
    loaded = SentenceTransformersScorer(library.CrossEncoder(str(folder), device="cpu"))
    opened = SentenceTransformersScorer(folder, device="cpu")
    assert loaded.fingerprint == opened.fingerprint
    pairs = np.zeros(2, dtype=np.int64), np.arange(2)
    scores = [s.prepare(["bird cat", "water"]).score(["dog"], *pairs) for s in (loaded, opened)]
    np.testing.assert_array_equal(scores[0], scores[1])
    expected = [tiny_torch.logit(folder, "dog", item) for item in ("bird cat", "water")]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.torch
def test_truncation_is_counted_and_warned_of_once(tiny_torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    items = ["bird cat", "water " * 40, "dog " * 50]
    bound = SentenceTransformersScorer(tiny_torch.cross_encoder(tmp_path), device="cpu", max_length=16).prepare(items)
    pairs = np.zeros(3, dtype=np.int64), np.arange(3)
    with pytest.warns(CrossKNNWarning, match="2 of 3 pairs are longer than 16 tokens and were cut"):
        scores = bound.score(["dog"], *pairs)
    np.testing.assert_array_equal(bound.score(["dog"], *pairs), scores)  # and no second warning
    assert bound.truncated == 4


@pytest.mark.torch
def test_a_model_with_two_labels_is_refused(tiny_torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = tiny_torch.cross_encoder(tmp_path, n_labels=2)
    with pytest.raises(InputError, match="2 labels; one logit"):
        SentenceTransformersScorer(folder, device="cpu")


@pytest.mark.torch
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda"}, "on device 'cuda' in float32: .*"),
        ({"device": "abacus"}, "on device 'abacus'"),
        ({"device": "cpu", "dtype": "float8"}, "in float8"),
    ],
)
def test_a_device_or_dtype_that_is_not_there_is_an_input_error(
    tiny_torch: Any, tmp_path: Path, settings: dict[str, str], message: str
) -> None:
    torch = pytest.importorskip("torch")
    if settings.get("device") == "cuda" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    folder = tiny_torch.cross_encoder(tmp_path)
    with pytest.raises(InputError, match=f"could not load the cross-encoder .*{message}"):
        SentenceTransformersScorer(folder, **settings)
    if "dtype" not in settings:
        with pytest.raises(InputError, match="could not load the encoder"):
            SentenceTransformersEncoder(folder, **settings)


@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 2e-2), ("bfloat16", 1e-1)])
def test_half_precision_is_near_and_known_apart(tiny_torch: Any, tmp_path: Path, dtype: str, tolerance: float) -> None:
    pytest.importorskip("sentence_transformers")
    folder = tiny_torch.cross_encoder(tmp_path)
    whole = SentenceTransformersScorer(folder, device="cpu")
    half = SentenceTransformersScorer(folder, device="cpu", dtype=dtype)
    assert dtype in half.fingerprint.model
    assert half.fingerprint != whole.fingerprint
    pairs = np.zeros(2, dtype=np.int64), np.arange(2)
    scores = [s.prepare(["bird cat", "water"]).score(["dog"], *pairs) for s in (whole, half)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=tolerance, atol=tolerance)
