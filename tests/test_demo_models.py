"""The models that ``crossknn-demo`` ships, as they are shipped."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from crossknn import OnnxEncoder, OnnxScorer
from crossknn.onnx_model import OnnxOptions

models = Path(pytest.importorskip("crossknn_demo").MODELS)

QUERIES = ["water on the brain", "lockjaw", "a phrase " * 30]
ITEMS = ["Hydrocephalus", "Tetanus", "Congenital hydrocephalus, " * 20, "Other specified noninfective gastroenteritis"]


def test_a_logit_is_the_same_alone_and_in_a_mixed_batch() -> None:
    bound = OnnxScorer(models / "cross_encoder", OnnxOptions(batch_size=64, threads=1)).prepare(ITEMS)
    rows, columns = (grid.ravel() for grid in np.meshgrid([0, 1, 2], [0, 1, 2, 3]))
    with pytest.warns(UserWarning, match="were cut"):
        mixed = bound.score(QUERIES, rows, columns)
    alone = [bound.score(QUERIES, rows[n : n + 1], columns[n : n + 1])[0] for n in range(len(rows))]
    np.testing.assert_allclose(alone, mixed, atol=1e-3)
    assert len(set(mixed)) == len(mixed)
    assert mixed.min() < 0  # logits, no sigmoid


def test_the_encoder_gives_unit_vectors_that_know_what_is_alike() -> None:
    vectors = OnnxEncoder(models / "encoder").embed(["hydrocephalus", "Congenital hydrocephalus", "Webbed fingers"])
    assert vectors.shape == (3, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.2


@pytest.mark.parametrize("name", ["cross_encoder", "encoder"])
def test_files_are_those_of_the_model_card(name: str) -> None:
    config = json.loads((models / name / "config.json").read_text())
    assert config["sha256"].keys() == {"model.onnx", "tokenizer.json"}
    for file, digest in config["sha256"].items():
        assert hashlib.sha256((models / name / file).read_bytes()).hexdigest() == digest


def test_they_are_small_enough_to_install() -> None:
    assert sum(path.stat().st_size for path in models.rglob("*") if path.is_file()) < 40e6
