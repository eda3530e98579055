"""Every scorer keeps the promises of ``scorers.base``, and agrees with an oracle that knows every score."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from crossknn import FunctionScorer, OnnxOptions, OnnxScorer, ReplayScorer, SentenceTransformersScorer
from crossknn.scorers import Scorer
from crossknn.scorers.http import TEI, HTTPOptions, HTTPScorer

QUERIES = ["cat", "water brain", "dog dog bird fish water", "zebra !"]
ITEMS = ["bird cat", "fish", "", "skin bone water " * 6, "cat cat", "brain", "bone " * 40]


@dataclass(frozen=True)
class Case:
    """A scorer, its score of any pair by other means, and scorers that must not pass for it."""

    scorer: Scorer
    again: Scorer
    others: list[Scorer]
    oracle: Callable[[str, str], float]
    tolerance: float = 0.0
    close: Callable[[], object] = lambda: None


def _function(tiny: Any, tiny_torch: Any, folder: Any) -> Case:
    def score(query: str, item: str) -> float:
        return len(query) / (1 + len(item))

    def make(name: str) -> Scorer:
        return FunctionScorer(lambda pairs: [score(q, i) for q, i in pairs], name=name, batch_size=3)

    return Case(make("lengths"), make("lengths"), [make("lengths-2")], score)


def _replay(tiny: Any, tiny_torch: Any, folder: Any) -> Case:
    matrix = np.random.default_rng(0).normal(size=(len(QUERIES), len(ITEMS)))

    def score(query: str, item: str) -> float:
        return float(matrix[QUERIES.index(query), ITEMS.index(item)])

    other = ReplayScorer(matrix + 1, QUERIES, ITEMS)
    return Case(ReplayScorer(matrix, QUERIES, ITEMS), ReplayScorer(matrix.copy(), QUERIES, ITEMS), [other], score)


def _onnx(tiny: Any, tiny_torch: Any, folder: Any) -> Case:
    path, options = tiny.cross_encoder(folder / "0"), OnnxOptions(batch_size=3)
    others = [
        OnnxScorer(tiny.cross_encoder(folder / "1", seed=1)),
        OnnxScorer(path, OnnxOptions(max_length=16)),
        OnnxScorer(tiny.cross_encoder(folder / "2", style="roberta")),
    ]
    return Case(OnnxScorer(path, options), OnnxScorer(tiny.cross_encoder(folder / "3"), options), others, tiny.logit)


def _sentence_transformers(tiny: Any, tiny_torch: Any, folder: Any) -> Case:
    pytest.importorskip("sentence_transformers")
    path = tiny_torch.cross_encoder(folder / "0")
    others = [
        SentenceTransformersScorer(tiny_torch.cross_encoder(folder / "1", seed=1), device="cpu"),
        SentenceTransformersScorer(path, device="cpu", max_length=16),
        SentenceTransformersScorer(path, device="cpu", dtype="bfloat16"),
    ]
    first, again = (SentenceTransformersScorer(path, device="cpu", batch_size=3) for _ in range(2))
    return Case(first, again, others, lambda q, i: tiny_torch.logit(path, q, i), tolerance=1e-4)


class _Reranker(BaseHTTPRequestHandler):
    """Text Embeddings Inference, as far as it is asked; the first part of the path tells models apart."""

    @staticmethod
    def score(query: str, item: str) -> float:
        return len(query) - len(item) / 7

    def do_GET(self) -> None:
        info = {"model_sha": None, "model_dtype": "float32", "max_input_length": 512, "max_client_batch_size": 3}
        self._send({"model_id": self.path.split("/")[1], **info})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert len(asked["texts"]) <= 3
        rows = [{"index": n, "score": self.score(asked["query"], text)} for n, text in enumerate(asked["texts"])]
        self._send(sorted(rows, key=lambda row: -row["score"]))

    def _send(self, content: Any) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: Any) -> None:
        pass


def _http(tiny: Any, tiny_torch: Any, folder: Any) -> Case:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Reranker)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"

    def close() -> None:
        server.shutdown()
        server.server_close()

    first, again = (HTTPScorer(TEI(f"{url}/first"), HTTPOptions(in_flight=2 + n)) for n in range(2))
    others: list[Scorer] = [HTTPScorer(TEI(f"{url}/second")), HTTPScorer(TEI(f"{url}/first", raw=False))]
    return Case(first, again, others, _Reranker.score, close=close)


@pytest.fixture(
    scope="module",
    params=[_function, _replay, _onnx, _http, pytest.param(_sentence_transformers, marks=pytest.mark.torch)],
    ids=lambda make: make.__name__[1:],
)
def case(
    request: pytest.FixtureRequest, tiny: Any, tiny_torch: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    made: Case = request.param(tiny, tiny_torch, tmp_path_factory.mktemp("models"))
    yield made
    made.close()


@pytest.mark.filterwarnings("ignore:.*were cut:crossknn.CrossKNNWarning")
def test_scores_are_the_oracles_in_the_order_of_the_pairs(case: Case) -> None:
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(len(QUERIES), size=60), rng.integers(len(ITEMS), size=60)
    scores = case.scorer.prepare(ITEMS).score(QUERIES, rows, columns)
    known = {(q, i): case.oracle(q, i) for q in QUERIES for i in ITEMS}
    assert scores.shape == (60,)
    assert scores.dtype == np.float64
    expected = [known[QUERIES[q], ITEMS[i]] for q, i in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=case.tolerance, atol=case.tolerance)


@pytest.mark.filterwarnings("ignore:.*were cut:crossknn.CrossKNNWarning")
def test_a_pair_alone_scores_as_in_a_mixed_batch(case: Case) -> None:
    rows, columns = (part.ravel() for part in np.indices((len(QUERIES), len(ITEMS))))
    bound = case.scorer.prepare(ITEMS)
    together = bound.score(QUERIES, rows, columns)
    alone = [bound.score([QUERIES[q]], np.array([0]), np.array([i]))[0] for q, i in zip(rows, columns, strict=True)]
    np.testing.assert_allclose(together, alone, rtol=case.tolerance, atol=case.tolerance)
    assert np.ptp(together) > 1


def test_no_pairs_no_scores(case: Case) -> None:
    none = np.empty(0, dtype=np.int64)
    scores = case.scorer.prepare(ITEMS).score(QUERIES, none, none)
    assert scores.shape == (0,)
    assert scores.dtype == np.float64


def test_a_fingerprint_is_stable_and_no_other_models(case: Case) -> None:
    assert case.scorer.fingerprint == case.again.fingerprint
    models = [scorer.fingerprint.model for scorer in (case.scorer, *case.others)]
    assert len(set(models)) == len(models)
