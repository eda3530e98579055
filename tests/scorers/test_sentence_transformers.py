"""What the sentence-transformers scorer promises beyond the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import SentenceTransformersEncoder, SentenceTransformersScorer
from crossknn.errors import InputError, MissingExtraError


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
def test_a_model_with_two_labels_is_refused(tiny_torch: Any, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    folder = tiny_torch.cross_encoder(tmp_path, n_labels=2)
    with pytest.raises(InputError, match="2 labels; one logit"):
        SentenceTransformersScorer(folder, device="cpu")
