"""Rerank services, against a real HTTP server that answers as TEI, vLLM, Cohere and Jina do, and fails as they do."""

from __future__ import annotations

import email.utils
import json
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from crossknn.errors import CrossKNNWarning, InputError, ScorerError
from crossknn.scorers.http import TEI, VLLM, Cohere, HTTPOptions, HTTPScorer, Jina, RerankAPI, VLLMScore

QUERIES = ["water on the brain", "cat", "ünïcode ☃"]
ITEMS = ["hydrocephalus", "a", "", "dog bites", "skin and bone " * 5, "brain"]
INFO = {
    "model_id": "BAAI/bge-reranker-base",
    "model_sha": "2cfc18c9",
    "model_dtype": "float16",
    "model_type": {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}},
    "max_client_batch_size": 32,
    "max_input_length": 512,
}
KEY = "sk-very-secret"
ROWS, COLUMNS = (part.ravel() for part in np.indices((len(QUERIES), len(ITEMS))))


def logit(query: str, text: str) -> float:
    return (len(query) - 0.5 * len(text)) / 4


EXPECTED = np.array([logit(QUERIES[q], ITEMS[i]) for q, i in zip(ROWS, COLUMNS, strict=True)])


def answer(path: str, body: dict[str, Any]) -> Any:
    """What a healthy service answers: best first, as all but vLLM's /score do."""
    texts = body.get("texts") or body.get("documents") or body["text_2"]
    raw = body.get("raw_scores") is True or body.get("use_activation") is False
    scores = [logit(body.get("query") or body["text_1"], text) for text in texts]
    scores = scores if raw else [1 / (1 + math.exp(-score)) for score in scores]
    key = "score" if "texts" in body or path == "/score" else "relevance_score"
    rows = [{"index": index, key: score} for index, score in enumerate(scores)]
    if path == "/score":
        return {"object": "list", "data": [{"object": "score", **row} for row in rows]}
    rows.sort(key=lambda row: -row[key])
    return rows if "texts" in body else {"id": "1", "results": rows, "meta": {}}


def texts_of(body: dict[str, Any]) -> list[Any]:
    texts: list[Any] = body.get("texts") or body.get("documents") or body["text_2"]
    return texts


class Service(ThreadingHTTPServer):
    """On a free port. Keeps what it was asked; faults, (status, body) or (status, body, headers), are answered first.

    Before it answers, every request goes through ``meet``.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.info: Any = INFO
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.headers: list[dict[str, str]] = []
        self.faults: deque[tuple[Any, ...]] = deque()
        self.limit = 1000
        self.too_long: Callable[[dict[str, Any]], bool] = lambda body: False
        self.meet: Callable[[dict[str, Any]], Any] = lambda body: None

    @property
    def sizes(self) -> list[int]:
        """Texts in each request."""
        return [len(texts_of(body)) for _, body in self.asked]

    def handle_error(self, *_: Any) -> None:
        """Clients that went away are expected."""


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_GET(self) -> None:
        self.send(*(self.server.faults.popleft() if self.server.faults else (200, self.server.info)))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, body))
        self.server.headers.append(dict(self.headers))
        self.server.meet(body)
        if self.server.faults:
            self.send(*self.server.faults.popleft())
        elif self.server.sizes[-1] > self.server.limit or self.server.too_long(body):
            self.send(413, {"error": "batch size > maximum allowed batch size", "error_type": "Validation"})
        else:
            self.send(200, answer(self.path, body))

    def send(self, status: int, content: Any, headers: dict[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    made = Service()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


def quick(**changes: Any) -> HTTPOptions:
    return HTTPOptions(**{"retries": 2, "backoff_seconds": 0.0, "timeout_seconds": 60.0, **changes})


def score_all(api: RerankAPI, options: HTTPOptions | None = None) -> np.ndarray:
    return HTTPScorer(api, options or quick()).prepare(ITEMS).score(QUERIES, ROWS, COLUMNS)


def one_pair(api: RerankAPI, options: HTTPOptions | None = None) -> np.ndarray:
    return HTTPScorer(api, options or quick()).prepare(ITEMS).score(QUERIES, np.array([0]), np.array([0]))


COMMON = {"query": QUERIES[0], "documents": ITEMS}
VLLM_COMMON = {"model": "bge", "use_activation": False, "truncate_prompt_tokens": -1}


@pytest.mark.parametrize(
    ("make", "path", "body"),
    [
        (lambda url: TEI(url), "/rerank", {"query": QUERIES[0], "texts": ITEMS, "raw_scores": True, "truncate": True}),
        (lambda url: VLLM(url, model="bge"), "/rerank", {**COMMON, **VLLM_COMMON}),
        (lambda url: VLLMScore(url, model="bge"), "/score", {"text_1": QUERIES[0], "text_2": ITEMS, **VLLM_COMMON}),
        (
            lambda url: Cohere(url=url, model="rerank-v3.5"),
            "/v2/rerank",
            {**COMMON, "model": "rerank-v3.5", "top_n": 6},
        ),
        (
            lambda url: Jina(url=url + "/", model="m0", path="/rerank"),
            "/rerank",
            {**COMMON, "model": "m0", "top_n": 6, "return_documents": False},
        ),
        (
            lambda url: VLLM(url, model="bge", raw=False, truncate=False),
            "/rerank",
            {**COMMON, "model": "bge", "use_activation": True},
        ),
    ],
    ids=["tei", "vllm", "vllm-score", "cohere", "jina", "vllm-probabilities"],
)
def test_each_api_is_asked_in_its_words_and_its_answer_is_read_back_in_order(
    service: Service, make: Callable[[str], RerankAPI], path: str, body: dict[str, Any]
) -> None:
    np.testing.assert_allclose(score_all(make(service.url)), EXPECTED, rtol=1e-9, atol=1e-9)
    assert (path, body) in service.asked
    assert len(service.asked) == len(QUERIES)


def test_key_and_headers_are_sent_and_shown_nowhere(service: Service) -> None:
    api = Cohere(url=service.url, model="m", api_key=KEY)
    options = quick(headers={"X-Tenant": "hush-hush"})
    one_pair(api, options)
    assert service.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert service.headers[0]["X-Tenant"] == "hush-hush"
    shown = [repr(api), repr(options), str(HTTPScorer(api, options).fingerprint)]
    quoted = {"headers": {"Authorization": f"Bearer {KEY}", "X-Tenant": "hush-hush"}}
    for status in (200, 401):
        for body in (quoted, {"message": f"no such key: {KEY}, hush-hush"}, f"<p>{KEY}".encode()):
            service.faults.append((status, body))
            with pytest.raises(ScorerError) as caught:
                one_pair(api, options)
            shown.append(str(caught.value))
    for text in shown:
        assert KEY not in text
        assert "hush-hush" not in text


def test_no_request_is_larger_than_options_or_service_allow(service: Service) -> None:
    service.info = {**INFO, "max_client_batch_size": 4}
    np.testing.assert_allclose(score_all(TEI(service.url)), EXPECTED)
    assert sorted(service.sizes) == [2, 2, 2, 4, 4, 4]
    service.asked.clear()
    np.testing.assert_allclose(score_all(TEI(service.url), quick(batch_size=3)), EXPECTED)
    assert service.sizes == [3] * 6
    service.asked.clear()
    none = np.empty(0, dtype=np.int64)
    assert HTTPScorer(TEI(service.url)).prepare(ITEMS).score(QUERIES, none, none).shape == (0,)
    assert not service.asked


def test_requests_too_large_are_halved_and_the_size_remembered(service: Service) -> None:
    service.limit = 2
    bound = HTTPScorer(VLLM(service.url, model="m"), quick(in_flight=1)).prepare(ITEMS)
    np.testing.assert_allclose(bound.score(QUERIES, ROWS, COLUMNS), EXPECTED)
    assert service.sizes == [6, 3, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1]
    service.asked.clear()
    np.testing.assert_allclose(bound.score(QUERIES, ROWS, COLUMNS), EXPECTED)
    assert service.sizes == [2] * 9


def test_one_long_text_does_not_shrink_the_requests_of_short_ones(service: Service) -> None:
    items = ["short"] * 60
    items[17] = "x" * 3_000  # which is taken alone
    service.too_long = lambda body: len(texts_of(body)) > 1 and sum(map(len, texts_of(body))) > 2_000
    bound = HTTPScorer(VLLM(service.url, model="m"), quick(in_flight=1, batch_size=20)).prepare(items)
    rows, columns = np.zeros(60, dtype=np.int64), np.arange(60)
    assert len(bound.score(QUERIES, rows, columns)) == 60
    service.asked.clear()
    bound.score(QUERIES, rows[20:], columns[20:])
    assert service.sizes == [20, 20]


class Pauses(threading.Event):
    """Notes the pauses it is asked for, and takes none."""

    taken: list[float]

    def wait(self, timeout: float | None = None) -> bool:
        self.taken.append(timeout or 0.0)
        return False


def test_overloads_and_failures_are_tried_again_after_pauses(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    Pauses.taken = []
    monkeypatch.setattr("crossknn.scorers.http.scorer.Event", Pauses)
    service.faults += [
        (429, {"error": "Model is overloaded", "error_type": "Overloaded"}, {"Retry-After": "7"}),
        (503, b""),
        (500, b"oops"),
        (429, {}, {"Retry-After": "99999"}),
    ]
    options = HTTPOptions(in_flight=1, retries=4, backoff_seconds=0.5, max_wait_seconds=60)
    np.testing.assert_allclose(score_all(VLLM(service.url, model="m"), options), EXPECTED)
    asked, second, third, capped = Pauses.taken
    assert (asked, capped) == (7, 60)
    assert 1 <= second <= 1.5
    assert 2 <= third <= 2.5
    assert len(service.asked) == 4 + len(QUERIES)


@pytest.mark.parametrize(
    ("said", "least", "most"),
    [
        ("1.5", 1.5, 1.5),
        ("soon", 0, 0.5),
        ("-3", 0, 0.5),
        (30, 25, 30),
        (-30, 0, 0.5),
    ],
)
def test_whatever_retry_after_says_it_is_tried_again(
    service: Service, monkeypatch: pytest.MonkeyPatch, said: str | int, least: float, most: float
) -> None:
    Pauses.taken = []
    monkeypatch.setattr("crossknn.scorers.http.scorer.Event", Pauses)
    date = email.utils.formatdate(time.time() + said, usegmt=True) if isinstance(said, int) else said
    service.faults += [(503, b"", {"Retry-After": date})]
    np.testing.assert_allclose(score_all(VLLM(service.url, model="m"), HTTPOptions(in_flight=1)), EXPECTED)
    assert least <= Pauses.taken[0] <= most


@pytest.mark.parametrize(
    ("status", "body", "message", "n_requests"),
    [
        (400, {"message": "too many documents"}, "400 .too many documents.; .*batch_size", 1),
        (401, {"message": "invalid api token"}, "401 .invalid api token.; .*api_key", 1),
        (403, b"<p>Forbidden</p>", "403 .<p>Forbidden</p>.; .*right to this model", 1),
        (404, {"error": {"message": "no model m", "code": 404}}, r"404 .no model m.; .*speaks this API \(vllm\)", 1),
        (413, {"error": "length limit exceeded"}, "413 .length limit exceeded.; this text alone", 1),
        (422, {"detail": [{"loc": ["query"], "msg": "Field required"}]}, "422 .*Field required.*which API", 1),
        (424, {"error": "model is not a re-ranker model"}, "424 .model is not a re-ranker model.; .*one logit", 1),
        (429, {"error": "overloaded"}, "429 .overloaded.; too many requests, after 2 retries: lower in_flight", 3),
        (500, b"", "500 .no message.; it keeps failing, after 2 retries", 3),
        (503, "x" * 999, r"503 .x{200}\.\.\..; it keeps failing, after 2 retries", 3),
        (501, b"", r"501 .no message.; it does not offer this: .*speaks this API \(vllm\)", 1),
        (502, b"<h1>Bad Gateway</h1>", "502 .<h1>Bad Gateway</h1>.; it keeps failing, after 2 retries", 3),
        (504, b"", "504 .no message.; it keeps failing", 3),
        (529, b"", "529 .no message.; it keeps failing", 3),
        (418, {}, "418 .no message.; an answer with status 200 is needed", 1),
        (200, b"<html>Log in", "what is no JSON .<html>Log in.; .*proxy", 1),
        (200, {"results": "x"}, 'an object with results, not a list under "results" as vllm answers', 1),
        (200, [{"index": 0, "score": 1.0}], 'a list, not a list under "results"', 1),
        (200, {"results": []}, "0 scores for 1 texts; .*which API", 1),
        (200, {"results": [{"index": 1, "relevance_score": 1}]}, "index 1, not one of 0 to 0", 1),
        (200, {"results": [{"relevance_score": 1}]}, "index None", 1),
        (200, {"results": [{"index": 0, "score": 1}]}, 'None as "relevance_score", which is no finite number', 1),
        (200, {"results": [{"index": 0, "relevance_score": True}]}, "True as", 1),
        (200, {"results": [{"index": 0, "relevance_score": "0.5"}]}, "0.5 as", 1),
        (200, {"results": [{"index": 0, "relevance_score": math.nan}]}, "nan as", 1),
    ],
)
def test_what_brings_no_scores_is_an_error_that_says_what_to_do(
    service: Service, status: int, body: Any, message: str, n_requests: int
) -> None:
    service.faults += [(status, body)] * n_requests
    with pytest.raises(ScorerError, match=message) as caught:
        one_pair(VLLM(service.url, model="m"))
    assert str(caught.value).startswith(f"{service.url}/rerank answered ")
    assert len(service.asked) == n_requests


def test_a_redirect_is_not_followed_since_it_would_take_key_and_texts_elsewhere(service: Service) -> None:
    service.faults.append((307, b"", {"Location": f"{service.url}/elsewhere"}))
    with pytest.raises(ScorerError, match="307"):
        one_pair(VLLM(service.url, model="m", api_key=KEY))
    assert [path for path, _ in service.asked] == ["/rerank"]


def test_an_index_twice_is_an_error(service: Service) -> None:
    scorer = HTTPScorer(TEI(service.url))
    service.faults.append((200, [{"index": 1, "score": 2.5}, {"index": 1, "score": 2.0}]))
    with pytest.raises(ScorerError, match="answered the index 1 twice"):
        scorer.prepare(ITEMS).score(QUERIES, np.zeros(2, dtype=int), np.arange(2))


def test_a_service_that_is_silent_gone_or_hangs_up(service: Service) -> None:
    gate, arrived = threading.Event(), threading.Semaphore(0)
    service.meet = lambda body: arrived.release() or gate.wait(60)
    with pytest.raises(ScorerError, match=r"no answer within 0.05 s; raise timeout_seconds"):
        one_pair(VLLM(service.url, model="m"), quick(timeout_seconds=0.05))
    assert all(arrived.acquire(timeout=60) for _ in range(2))  # an answer that does not come is waited for twice
    gate.set()

    def hang_up(body: Any) -> None:
        raise ConnectionAbortedError

    service.meet = hang_up
    with pytest.raises(ScorerError, match="broke off without an answer"):
        one_pair(VLLM(service.url, model="m"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(ScorerError, match=r"/info cannot be reached \(.*; check the URL"):
            HTTPScorer(TEI(f"http://127.0.0.1:{free.getsockname()[1]}"), quick())


def test_saturated_probabilities_are_finite_tie_and_are_warned_of_once(service: Service) -> None:
    bound = HTTPScorer(Cohere(url=service.url, model="m")).prepare(ITEMS)
    probabilities = [0.0, 1.0, 1e-30, 1 - 2.0**-24, 0.5, 0.75]

    def score() -> np.ndarray:
        rows = [{"index": n, "relevance_score": p} for n, p in enumerate(probabilities)]
        service.faults.append((200, {"results": rows}))
        return bound.score(QUERIES, np.zeros(6, dtype=int), np.arange(6))

    with pytest.warns(CrossKNNWarning, match="3 of 6 probabilities .* tie"):
        scores = score()
    np.testing.assert_array_equal(score(), scores)  # no second warning: it would be an error
    assert bound.saturated == 6
    top = math.log(2.0**24 - 1)
    assert round(top, 2) == 16.64
    np.testing.assert_allclose(scores, [-top, top, -top, top, 0, math.log(3)], rtol=1e-12, atol=1e-12)


def test_what_is_no_probability_must_be_declared_raw(service: Service) -> None:
    raw = {"results": [{"index": 0, "relevance_score": -3.25}]}
    service.faults += [(200, raw), (200, raw)]
    with pytest.raises(ScorerError, match=r"-3.25, which is no probability; .*Jina\(\.\.\., raw=True\)"):
        one_pair(Jina(url=service.url, model="m"))
    np.testing.assert_array_equal(one_pair(Jina(url=service.url, model="m", raw=True)), [-3.25])


def test_requests_are_under_way_together(service: Service) -> None:
    barrier = threading.Barrier(3, timeout=60)
    service.meet = lambda body: barrier.wait()
    scores = score_all(VLLM(service.url, model="m"), quick(in_flight=3, retries=0))
    np.testing.assert_allclose(scores, EXPECTED)


def test_the_first_error_is_raised_at_once_and_ends_the_rest(service: Service) -> None:
    """One request is never answered, one is in a long pause, one fails, the others are never sent."""
    gate, together = threading.Event(), threading.Barrier(3, timeout=60)

    def meet(body: dict[str, Any]) -> None:
        together.wait()
        if body["query"] == "hang":
            gate.wait(60)
        status = 400 if body["query"] == "fail" else 503
        service.faults.append((status, b"", {"Retry-After": "3600"}))

    service.meet = meet
    queries = ["pause", "hang", "fail", "unsent", "unsent"]
    bound = HTTPScorer(VLLM(service.url, model="m"), quick(in_flight=3, max_wait_seconds=3600)).prepare(ITEMS)
    with pytest.raises(ScorerError, match="400"):
        bound.score(queries, np.arange(5), np.zeros(5, dtype=int))
    assert not gate.is_set()
    gate.set()
    for thread in [thread for thread in threading.enumerate() if thread.name == "crossknn-http"]:
        thread.join(60)
        assert not thread.is_alive()
    assert {body["query"] for _, body in service.asked} == {"pause", "hang", "fail"}
    assert len(service.asked) == 3


INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background has it ignored
import numpy as np
from crossknn.scorers.http import VLLM, HTTPOptions, HTTPScorer
scorer = HTTPScorer(VLLM(sys.argv[1], model=str(os.getpid())), HTTPOptions(timeout_seconds=600))
bound = scorer.prepare(["a"])
bound.score(["q", "r"], np.arange(2), np.zeros(2, dtype=int))
"""


@pytest.mark.skipif(os.name == "nt", reason="signals a process")
def test_ctrl_c_ends_the_program_though_the_service_does_not_answer(service: Service) -> None:
    gate = threading.Event()

    def interrupt(body: dict[str, Any]) -> None:
        if len(service.asked) == 2:
            os.kill(int(body["model"]), signal.SIGINT)
        gate.wait(60)

    service.meet = interrupt
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, service.url], capture_output=True, text=True, timeout=60, check=False
    )
    gate.set()
    assert ran.returncode == -signal.SIGINT
    assert ran.stderr.strip().endswith("KeyboardInterrupt")


def test_a_fingerprint_tells_model_revision_precision_length_and_scale(service: Service) -> None:
    scorer = HTTPScorer(TEI(service.url + "/"))
    assert scorer.fingerprint.model == "tei:BAAI/bge-reranker-base:2cfc18c9:float16:max_length=512:raw"
    assert scorer.fingerprint.kernel == service.url
    models = [HTTPScorer(TEI(service.url, raw=False)).fingerprint.model]
    for change in ({"model_sha": None}, {"model_dtype": "float32"}, {"max_input_length": 256}, {"model_id": "other"}):
        service.info = {**INFO, **change}
        models.append(HTTPScorer(TEI(service.url)).fingerprint.model)
    apis = [Cohere(model="m"), Cohere(model="n"), Jina(model="m"), Jina(model="m", raw=True)]
    apis += [VLLM("http://x", model="m")]
    models += [HTTPScorer(api).fingerprint.model for api in apis]
    assert len({scorer.fingerprint.model, *models}) == 1 + len(models)
    assert HTTPScorer(VLLMScore("http://x", model="m")).fingerprint.model == models[-1]


@pytest.mark.parametrize(
    ("status", "info", "message"),
    [
        (401, {"error": "unauthorized"}, "/info answered 401 .unauthorized.; a valid api_key"),
        (200, {"object": "list"}, "an object with object, which does not describe a model as TEI does"),
        (200, {**INFO, "max_client_batch_size": None}, "does not describe a model"),
        (200, ["a"], "a list, which does not describe a model"),
    ],
)
def test_a_service_that_does_not_describe_itself(service: Service, status: int, info: Any, message: str) -> None:
    service.faults.append((status, info))
    with pytest.raises(ScorerError, match=message):
        HTTPScorer(TEI(service.url))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TEI("localhost:8080"), "url must be like http"),
        (lambda: TEI(f"http://me:{KEY}@host"), "without password"),
        (lambda: TEI(f"https://host/rerank?key={KEY}"), "query or fragment"),
        (lambda: Cohere(model="m", api_key=""), "api_key is empty"),
        (lambda: Cohere(model="m", api_key=KEY + "\n"), "line breaks"),
        (lambda: HTTPOptions(batch_size=0), "batch_size must be a whole number of at least 1, got 0"),
        (lambda: HTTPOptions(in_flight=True), "in_flight must be"),
        (lambda: HTTPOptions(retries=-1), "retries must be a whole number of at least 0"),
        (lambda: HTTPOptions(timeout_seconds=0), "timeout_seconds must be above 0"),
        (lambda: HTTPOptions(backoff_seconds=math.nan), "backoff_seconds must not be negative"),
        (lambda: HTTPOptions(max_wait_seconds=-1), "max_wait_seconds must not be negative"),
        (lambda: HTTPOptions(headers={"X-Key": KEY + "\r\n"}), "the header X-Key has line breaks"),
    ],
)
def test_addresses_keys_and_options_are_checked(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert KEY not in str(caught.value)
