"""What the sentence-transformers scorer promises beyond the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import SentenceTransformersEncoder, SentenceTransformersScorer
from crossknn.errors import CrossKNNWarning, InputError, MissingExtraError
from crossknn.scorers.base import layers_to_read


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


def _ragged() -> tuple[list[str], list[str], np.ndarray, np.ndarray]:
    """Texts of all lengths, some longer than 16 tokens, and pairs in no order, some of them twice."""
    rng = np.random.default_rng(0)
    words = np.array(["bird", "cat", "water", "dog", "zebra"])
    texts = [" ".join(rng.choice(words, size=n)) for n in (1, 30, 2, 5, 12, 3, 20, 0, 8)]
    return texts[:4], texts[4:], rng.integers(4, size=30), rng.integers(5, size=30)


def _predicted(model: Any, pairs: Any) -> np.ndarray:
    torch = pytest.importorskip("torch")
    queries, items, q, i = pairs
    texts = [[queries[a], items[b]] for a, b in zip(q, i, strict=True)]
    return np.asarray(model.predict(texts, activation_fn=torch.nn.Identity(), show_progress_bar=False))


@pytest.mark.torch
@pytest.mark.parametrize("batch_size", [None, 1, 7])
@pytest.mark.filterwarnings("ignore::crossknn.errors.CrossKNNWarning")
def test_texts_tokenised_once_score_as_predict_does(tiny_torch: Any, tmp_path: Path, batch_size: int | None) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.CrossEncoder(str(tiny_torch.cross_encoder(tmp_path)), device="cpu", max_length=16)
    scorer, (queries, items, q, i) = SentenceTransformersScorer(model, batch_size=batch_size), _ragged()
    assert scorer.tokenises_once
    scores = scorer.prepare(items).score(queries, q, i)
    np.testing.assert_allclose(scores, _predicted(model, (queries, items, q, i)), rtol=1e-4, atol=1e-4)


@pytest.mark.torch
@pytest.mark.parametrize("batch_size", [None, 2])
def test_states_are_the_means_over_an_items_own_tokens_read_with_an_empty_query(
    tiny_torch: Any, tmp_path: Path, batch_size: int | None
) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    folder, tokenizer = tiny_torch.cross_encoder(tmp_path), tiny_torch.make_tokenizer()
    scorer = SentenceTransformersScorer(str(folder), device="cpu", batch_size=batch_size)
    texts = ["bird fish", "cat", "water dog zebra bone"]
    bare = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
    for text, states in zip(texts, scorer.states(texts), strict=True):
        encoding = tokenizer.encode("", text)
        own = [n for n, sequence in enumerate(encoding.sequence_ids) if sequence == 1]
        ids, kinds = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
        with torch.no_grad():
            hidden = bare(input_ids=ids, token_type_ids=kinds, output_hidden_states=True).hidden_states
        expected = np.array([hidden[layer][0, own].mean(dim=0).numpy() for layer in (1, 2)])  # of two layers
        np.testing.assert_allclose(states, expected, atol=1e-5)
    assert not scorer.states([""]).any()
    assert len(scorer.states([])) == 0
    assert [layers_to_read(n) for n in (1, 3, 6, 12, 24)] == [[1], [2], [4, 5], [8, 10], [16, 20]]


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::crossknn.errors.CrossKNNWarning")
def test_a_model_that_reads_in_its_own_way_is_left_to_predict(
    tiny_torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.CrossEncoder(str(tiny_torch.cross_encoder(tmp_path)), device="cpu", max_length=16)
    pairs, plainly = _ragged(), model.predict
    monkeypatch.setattr(model, "predict", lambda texts, **k: plainly([["dog " + a, b] for a, b in texts], **k))
    scorer = SentenceTransformersScorer(model)
    assert not scorer.tokenises_once
    with pytest.raises(InputError, match="reads in a way of its own"):
        scorer.states(pairs[1])
    scores = scorer.prepare(pairs[1]).score(pairs[0], *pairs[2:])
    np.testing.assert_allclose(scores, _predicted(model, pairs), rtol=1e-5, atol=1e-5)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore::crossknn.errors.CrossKNNWarning")
def test_where_memory_runs_out_less_is_scored_at_once(
    tiny_torch: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library, torch = pytest.importorskip("sentence_transformers"), pytest.importorskip("torch")
    model = library.CrossEncoder(str(tiny_torch.cross_encoder(tmp_path)), device="cpu", max_length=16)
    queries, items, q, i = _ragged()
    scorer, expected = SentenceTransformersScorer(model), _predicted(model, (queries, items, q, i))
    bound, whole = scorer.prepare(items), scorer.states(items)[0]
    forward, sizes, most = model.model.forward, [], 100

    def small(input_ids: Any, **others: Any) -> Any:
        sizes.append(input_ids.numel())
        if sizes[-1] > most:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return forward(input_ids=input_ids, **others)

    monkeypatch.setattr(model.model, "forward", small)
    np.testing.assert_allclose(bound.score(queries, q, i), expected, rtol=1e-4, atol=1e-4)
    assert max(sizes) > most
    sizes.clear()
    bound.score(queries, q, i)
    assert max(sizes) <= most  # and it has learned how much is enough
    np.testing.assert_allclose(scorer.states(items[:1])[0], whole, atol=1e-4)
    most, at_once = 40, scorer._model._at_once
    np.testing.assert_allclose(scorer.states(items)[0], whole, atol=1e-4)
    assert scorer._model._at_once == at_once  # what was too much for states is not for scores
    most = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        bound.score(queries, q[:1], i[:1])


@pytest.mark.torch
def test_a_fingerprint_does_not_depend_on_use_or_batches(tiny_torch: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.CrossEncoder(str(tiny_torch.cross_encoder(tmp_path)), device="cpu")
    fresh = SentenceTransformersScorer(model).fingerprint
    model.predict([["dog", "water " * 10], ["cat", "bird"]], show_progress_bar=False)
    assert SentenceTransformersScorer(model, batch_size=1).fingerprint == fresh
    with pytest.raises(InputError, match="batch_size must be at least 1, got 0"):
        SentenceTransformersScorer(model, batch_size=0)


@pytest.mark.torch
def test_a_model_may_have_no_longest_pair(tiny_torch: Any, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    model = library.CrossEncoder(str(tiny_torch.cross_encoder(tmp_path)), device="cpu", max_length=10**30)
    scorer, pairs = SentenceTransformersScorer(model), (["dog"], ["bird cat", "water"], np.array([0, 0]), np.arange(2))
    np.testing.assert_allclose(scorer.prepare(pairs[1]).score(["dog"], *pairs[2:]), _predicted(model, pairs), rtol=1e-5)
