"""Hidden states beside a dual encoder's vectors: what they change, and what they must not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import (
    BuildOptions,
    CachedScorer,
    Dense,
    FunctionScorer,
    GivenVectors,
    Hybrid,
    Index,
    PerQuery,
    WithStates,
)
from crossknn.errors import InputError
from crossknn.factorization import MFSideInformation
from crossknn.first_stage.base import kept_of

ITEMS = [f"item {n}" for n in range(60)]
QUERIES = [f"query {n}" for n in range(30)]
LAYERS, WIDTH = 2, 3


class Shown(FunctionScorer):
    """Scores are inner products with what an item's states say, of which the dual encoder sees nothing."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._states = {text: rng.normal(loc=5, size=(LAYERS, WIDTH)) for text in ITEMS}
        self._asked = {text: rng.normal(size=LAYERS * WIDTH) for text in QUERIES}
        self.read: list[str] = []
        super().__init__(lambda pairs: [float(self.score_of(*pair)) for pair in pairs], name="shown")

    def score_of(self, query: str, item: str) -> float:
        return float(self._asked[query] @ self._states[item].ravel())

    def states(self, texts: Sequence[str]) -> Any:
        self.read += texts
        return np.array([self._states[text] for text in texts]).reshape(len(texts), LAYERS, WIDTH)


@pytest.fixture
def dense() -> Dense:
    rng = np.random.default_rng(1)
    return Dense(GivenVectors({text: rng.normal(size=4) for text in ITEMS + QUERIES}, name="given"))


def test_the_ranking_stays_the_dual_encoders(dense: Dense) -> None:
    plain, bound = dense.prepare(ITEMS), WithStates(dense, Shown()).prepare(ITEMS)
    np.testing.assert_array_equal(bound.scores(QUERIES), plain.scores(QUERIES))
    np.testing.assert_allclose(bound.embed_queries(QUERIES) @ bound.item_vectors.T, plain.scores(QUERIES), atol=1e-5)


def test_with_every_dimension_items_are_as_alike_as_their_layers_less_the_mean(dense: Dense) -> None:
    reader = Shown()
    beside = WithStates(dense, reader).prepare(ITEMS).item_vectors[:, 4:]
    alike = np.zeros((len(ITEMS), len(ITEMS)))
    for layer in np.swapaxes(reader.states(ITEMS), 0, 1):
        unit = layer / np.linalg.norm(layer, axis=1, keepdims=True)
        unit = unit - unit.mean(axis=0)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        alike += unit @ unit.T
    np.testing.assert_allclose(beside @ beside.T, alike, atol=1e-5)
    few = WithStates(dense, reader, dimensions=2).prepare(ITEMS).item_vectors[:, 4:]
    left = np.linalg.eigvalsh(alike)[:-2]
    assert np.linalg.norm(alike - few @ few.T) == pytest.approx(np.linalg.norm(left), rel=1e-3)  # the best two can do


def test_what_is_blank_or_all_alike_has_none(dense: Dense) -> None:
    reader = Shown()
    first_stage = WithStates(dense, reader)
    for text in ITEMS[:3]:
        reader._states[text] = reader._states[ITEMS[0]]
    assert not first_stage.prepare(ITEMS[:3]).item_vectors[:, 4:].any()
    assert not first_stage.prepare(ITEMS[:1]).item_vectors[:, 4:].any()
    before = first_stage.prepare(ITEMS[1:]).item_vectors[:, 4:]
    reader._states[ITEMS[0]] = np.zeros((LAYERS, WIDTH))
    after = first_stage.prepare(ITEMS).item_vectors[:, 4:]
    assert not after[0].any()
    np.testing.assert_allclose(after[1:] @ after[1:].T, before @ before.T, atol=1e-5)


def test_what_is_learned_follows_them(dense: Dense) -> None:
    """Scores depend on nothing that the dual encoder sees; half of the items have no score."""
    reader, best = Shown(), []
    for first_stage in (dense, WithStates(dense, reader)):
        options = BuildOptions(PerQuery(0, 8), MFSideInformation(), refine=0)
        index = Index.build(ITEMS, scorer=reader, first_stage=first_stage, queries=QUERIES[:24], options=options)
        found = index.search_batch(QUERIES[24:], k=5, budget=20)
        exact = np.array([[reader.score_of(query, item) for item in ITEMS] for query in QUERIES[24:]])
        tops = [set(np.argsort(-row)[:5]) for row in exact]
        best.append(
            np.mean([len(top & {int(hit.id) for hit in r.hits}) / 5 for top, r in zip(tops, found, strict=True)])
        )
    assert best[1] > best[0] + 0.2


def test_an_index_keeps_them_and_reads_no_item_again(dense: Dense, tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    reader = Shown()
    first_stage = WithStates(Hybrid(dense.encoder, dimensions=3), CachedScorer(reader, tmp_path / "scores.sqlite"))
    built = Index.build(ITEMS, scorer=reader, first_stage=first_stage, queries=QUERIES[:9], out=tmp_path / "index")
    assert reader.read == ITEMS
    loaded = Index.load(tmp_path / "index", scorer=reader, first_stage=first_stage)
    assert reader.read == ITEMS
    assert loaded.search(QUERIES[9], budget=20).hits == built.search(QUERIES[9], budget=20).hits
    again = first_stage.prepare(ITEMS, kept_of(first_stage.prepare(ITEMS)))
    np.testing.assert_array_equal(again.item_vectors, loaded.first_stage_vectors)
    assert first_stage.prepare([]).item_vectors.shape[0] == 0


def test_what_cannot_be_read_is_refused(dense: Dense, tmp_path: Path) -> None:
    plain = FunctionScorer(lambda pairs: [0.0] * len(pairs), name="plain")
    for reader in (plain, CachedScorer(plain, tmp_path / "scores.sqlite")):
        with pytest.raises(InputError, match="shows no hidden states"):
            WithStates(dense, reader)
    reader = Shown()
    with pytest.raises(InputError, match="beside them already"):
        WithStates(WithStates(dense, reader), reader)
    with pytest.raises(InputError, match="dimensions must be 1 or more, got 0"):
        WithStates(dense, reader, dimensions=0)
    first_stage = WithStates(dense, reader)
    reader._states[ITEMS[3]][0, 0] = np.nan
    with pytest.raises(InputError, match="that are not finite"):
        first_stage.prepare(ITEMS)
    assert len({first_stage.fingerprint, WithStates(dense, reader, dimensions=2).fingerprint, dense.fingerprint}) == 3
