"""The service as its clients see it."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crossknn import CachedScorer, FunctionScorer, Index, Rerank
from crossknn.errors import InputError
from crossknn.scorers.http import TEI, Cohere, Jina
from crossknn.server import ServerOptions

Serve = Callable[..., Any]


def _answer(result: Any) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(json.dumps(result.to_dict()))
    return {name: plain[name] for name in ("query", "hits", "calls")}


def test_a_search_answers_as_the_index_does(serve: Serve, index: Index, world: Any) -> None:
    service = serve(index)
    expected = [_answer(r) for r in index.search_batch(world.queries[:4], k=3, budget=17)]
    found = service.post("/search", {"query": world.queries[:4], "k": 3, "budget": 17})
    assert found.status_code == 200
    assert found.json() == {"results": expected}
    one = service.post("/search", {"query": world.queries[0], "k": 3, "budget": 17}).json()
    assert one == {"results": expected[:1]}


def test_settings_reach_the_search(serve: Serve, index: Index, world: Any) -> None:
    service, query = serve(index), world.queries[1]
    asked = {"query": query, "k": 2, "budget": 9, "method": "rerank", "trace": True}
    (found,) = service.post("/search", asked).json()["results"]
    assert {n: found[n] for n in ("query", "hits", "calls")} == _answer(
        index.search(query, k=2, budget=9, method=Rerank())
    )
    assert [cost["calls"] for cost in found["trace"]] == [9]
    (found,) = service.post("/search", {"query": query, "budget": 40, "target_recall": 0.3}).json()["results"]
    assert found["expected_recall"] >= 0.3
    allowed = np.arange(40) < 12
    allowed[3] = False
    ids = {"only": [str(n) for n in range(12)], "without": ["3"]}
    (found,) = service.post("/search", {"query": query, "k": 4, "budget": 8, "ids": ids}).json()["results"]
    assert {n: found[n] for n in ("query", "hits", "calls")} == _answer(
        index.search(query, k=4, budget=8, filter=allowed)
    )


def test_a_filter_is_on_the_items_metadata(serve: Serve, world: Any) -> None:
    fields = {str(n): {"half": n % 2, "tags": ["x", f"t{n % 5}"]} for n in range(39)}
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense, metadata=fields)
    service, asked = serve(index), {"query": world.queries[0], "k": 3, "budget": 6}
    for conditions, ids in (
        ({"half": 1, "tags": ["t0", "t1"]}, None),
        ({"half": {"gte": 1}, "tags": {"not": "t2"}}, {"without": ["1"]}),
    ):
        mask = index.metadata.mask(conditions)
        mask[1] &= ids is None
        body = asked | {"filter": conditions, "ids": ids}
        (found,) = service.post("/search", body).json()["results"]
        assert {n: found[n] for n in ("query", "hits", "calls")} == _answer(
            index.search(world.queries[0], k=3, budget=6, filter=mask)
        )
        assert f'"id": "{found["hits"][0]["id"]}"' in service.post("/search/stream", body).text
    assert service.get("/items/7").json() == {
        "id": "7",
        "text": world.items[7],
        "metadata": {"half": 1, "tags": ["x", "t2"]},
    }
    half, tags = service.get("/info").json()["fields"]
    assert half == {"name": "half", "distinct": 2, "values": [0, 1]}
    assert (tags["distinct"], tags["values"][0]) == (6, "x")
    for conditions, message in (
        ({"colour": "red"}, "no item has the field 'colour'"),
        ({"half": "1"}, "a field of number, not of text"),
        ({"half": {"above": 7}}, "above"),
        ({"half": {}}, "got nothing"),
    ):
        refused = service.post("/search", asked | {"filter": conditions})
        assert refused.status_code == 422
        assert message in refused.json()["detail"]
    filters = ({"half": 7}, {"half": 10**400}, {"half": {"gte": 10**400}})
    for leaves_none in (*({"filter": conditions} for conditions in filters), {"ids": {"only": []}}):
        body = asked | leaves_none
        (found,) = service.post("/search", body).json()["results"]
        assert (found["hits"], found["calls"]) == ([], 0)
        assert service.post("/search/stream", body).text.startswith("event: done")


def test_rounds_are_told_as_they_finish(serve: Serve, index: Index, world: Any) -> None:
    service, query = serve(index), world.queries[0]
    answer = service.post("/search/stream", {"query": query, "k": 3, "budget": 20})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n", 1) for part in answer.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    bodies = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert names == ["round"] * 10 + ["done"]
    assert [body["calls"] for body in bodies] == [*range(2, 21, 2), 20]
    scored = [item for body in bodies[:-1] for item in body["scored"]]
    assert len({item["id"] for item in scored}) == 20
    for item in scored:
        assert item["score"] == world.scores[0, int(item["id"])]
        assert (item["predicted"] is None) == (item["round"] == 1)
    assert {n: bodies[-1][n] for n in ("query", "hits", "calls")} == _answer(index.search(query, k=3, budget=20))
    refused = service.post("/search/stream", {"query": query, "k": 3, "budget": 2})
    assert "event: error" in refused.text
    assert "k=3 hits need at least as many" in refused.text


def test_rerank_speaks_cohere_and_tei(serve: Serve, index: Index, world: Any) -> None:
    service, query = serve(index), world.queries[2]
    documents, scores = world.items[5:9], world.scores[2, 5:9]
    order = np.argsort(-scores).tolist()
    cohere = service.post("/rerank", {"model": "x", "query": query, "documents": documents, "top_n": 3}).json()
    assert [r["index"] for r in cohere["results"]] == order[:3]
    for result in cohere["results"]:
        assert result["relevance_score"] == pytest.approx(1 / (1 + math.exp(-scores[result["index"]])))
    shown = {"query": query, "documents": [{"text": d} for d in documents], "return_documents": True}
    assert service.post("/rerank", shown).json()["results"][0]["document"] == {"text": documents[order[0]]}
    tei = service.post("/rerank", {"query": query, "texts": documents, "raw_scores": True, "return_text": True}).json()
    assert tei == [{"index": n, "score": scores[n], "text": documents[n]} for n in order]
    soft = service.post("/rerank", {"query": query, "texts": documents, "truncate": True}).json()
    assert [r["index"] for r in soft] == order
    assert all(0 < r["score"] < 1 for r in soft)


def test_a_service_is_a_reranker_for_clients_of_cohere_and_tei(serve: Serve, index: Index, world: Any) -> None:
    service, query = serve(index), world.queries[2]
    info = service.get("/info").json()
    assert TEI("http://x").served(info).batch_limit == 1000
    scores = world.scores[2, 5:9].tolist()
    for api in (TEI("http://x"), Cohere(model="x", api_key="k"), Jina(model="x", api_key="k")):
        answer = service.post(api.path, api.body(query, world.items[5:9]))
        expected = scores if api.raw else [1 / (1 + math.exp(-score)) for score in scores]
        assert api.read(answer.json(), 4) == pytest.approx(expected)


def test_many_rounds_cost_no_more_than_the_budget(serve: Serve, index: Index, world: Any) -> None:
    asked = {"query": world.queries[0], "k": 3, "budget": 6, "method": f"axn-r{10**12}", "trace": True}
    (found,) = serve(index).post("/search", asked).json()["results"]
    assert [cost["calls"] for cost in found["trace"]] == [1] * 6


@pytest.mark.parametrize("chunk", [b"", b" " * 1000])
def test_a_body_that_does_not_end_or_does_not_come_is_refused(serve: Serve, index: Index, chunk: bytes) -> None:
    async def body() -> AsyncIterator[bytes]:
        while True:
            yield chunk
            await asyncio.sleep(0.001 if chunk else 0.3)

    service = serve(index, replace(SMALL, body_seconds=0.1))
    answer = service("POST", "/search", content=body(), headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["status"]) == ((413,) * 2 if chunk else (408,) * 2)
    assert answer.headers["content-type"] == "application/problem+json"


def test_items_info_health_and_metrics(serve: Serve, index: Index, world: Any) -> None:
    service = serve(index)
    assert service.get("/items/7").json() == {"id": "7", "text": world.items[7], "metadata": {}}
    assert service.get("/health").json() == service.get("/ready").json() == {"status": "ok"}
    info = service.get("/info").json()
    assert (info["items"], info["default_method"]) == (40, "axn")
    assert (info["default_budget"], info["default_rounds"]) == (100, 10)
    service.post("/search", {"query": world.queries[0], "budget": 13})
    service.get("/nothing")
    metrics = service.get("/metrics").text
    assert "crossknn_scorer_calls 13.0" in metrics
    assert 'crossknn_requests_total{route="/search",status="200"} 1.0' in metrics
    assert 'crossknn_search_part_seconds_count{part="score"} 1.0' in metrics
    assert "crossknn_searches 0.0" in metrics
    page = service.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


SMALL = ServerOptions(max_k=20, max_budget=50, max_queries=3, max_documents=4, max_text=100, max_body_bytes=3000)


@pytest.mark.parametrize(
    ("path", "body", "status", "says"),
    [
        ("/search", {"query": ""}, 422, "empty"),
        ("/search", {"query": []}, 422, "no query"),
        ("/search", {"query": ["a", " "]}, 422, "empty"),
        ("/search", {"query": "a" * 101}, 422, "101 characters"),
        ("/search", {"query": ["a"] * 4}, 422, "queries is 4, and 3 is the most"),
        ("/search", {"query": "a", "k": 21, "budget": 30}, 422, "k is 21, and 20 is the most"),
        ("/search", {"query": "a", "k": 0}, 422, "k: "),
        ("/search", {"query": "a", "k": 1, "budget": True}, 422, "budget"),
        ("/rerank", {"query": "a", "documents": ["b"], "top_n": True}, 422, "top_n"),
        ("/search", {"query": "a", "budget": 51}, 422, "budget is 51, and 50 is the most"),
        ("/search", {"query": "a", "k": 10, "budget": 5}, 422, "k=10 hits need at least as many"),
        ("/search", {"query": "a", "target_recall": 1.5}, 422, "target_recall"),
        ("/search", {"query": "a", "method": "magic", "budget": 20}, 422, "no method 'magic'"),
        (
            "/search",
            {"query": "query cat 0", "method": "rerank", "target_recall": 0.9, "budget": 20},
            422,
            "how sure it is",
        ),
        ("/search", {"query": "a", "ids": {"only": ["nope"]}}, 422, "no item with the id 'nope'"),
        ("/search", {"query": "a", "colour": "red"}, 422, "colour"),
        ("/search", {"query": 3}, 422, "query"),
        ("/search", [], 422, ""),
        ("/search/stream", {"query": ["a"]}, 422, "query"),
        ("/rerank", {"query": "a", "documents": []}, 422, ""),
        ("/rerank", {"query": "a", "documents": ["b"] * 5}, 422, "documents is 5"),
        (
            "/rerank",
            {"query": "a", "texts": ["b" * 101]},
            422,
            "a document has 101 characters, and 100 is the most here",
        ),
        ("/rerank", {"query": " ", "texts": ["b"]}, 422, "empty"),
        ("/rerank", {"query": "a", "texts": ["b"], "documents": ["b"]}, 422, "documents"),
        ("/search", {"query": "a" * 4000}, 413, "3000 bytes"),
        ("/nothing", {}, 404, "Not Found"),
        ("/search/", {"query": "a"}, 404, "Not Found"),
        ("/rerank", {"query": "a", "documents": [{"title": "b"}]}, 422, "text"),
        ("/health", {}, 405, "Method Not Allowed"),
    ],
)
def test_what_cannot_be_answered_is_a_problem_document(
    serve: Serve, index: Index, world: Any, path: str, body: Any, status: int, says: str
) -> None:
    answer = serve(index, SMALL).post(path, body)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (answer.status_code, problem["status"]) == (status, status)
    assert problem["type"] == "about:blank"
    assert says in problem["detail"]
    assert not world.calls


def test_half_characters_reach_no_scorer(serve: Serve, index: Index) -> None:
    for content in (b'{"query": "a", "texts": ["\\ud800"]}', b'{"query": "\\ud800", "texts": ["a"]}'):
        answer = serve(index)("POST", "/rerank", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 422
        assert "no valid Unicode" in answer.json()["detail"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"null", b'{"query": NaN}', b"[" * 900])
def test_bytes_that_are_no_request_are_a_problem_document(serve: Serve, index: Index, content: bytes) -> None:
    answer = serve(index)("POST", "/search", content=content, headers={"content-type": "application/json"})
    assert answer.headers["content-type"] == "application/problem+json"
    assert 400 <= answer.status_code < 500


def test_a_token_is_asked_for_and_never_shown(serve: Serve, index: Index) -> None:
    options = ServerOptions(token="a secret")
    assert "secret" not in repr(options)
    service = serve(index, options)
    for headers in ({}, {"Authorization": "Bearer b secret"}, {"Authorization": "a secret"}):
        answer = service("POST", "/search", json={"query": "a"}, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert "secret" not in answer.text
    for path in ("/", "/health", "/ready"):
        assert service.get(path).status_code == 200
    for path in ("/info", "/metrics", "/items/1", "/openapi.json"):
        assert service.get(path).status_code == 401
    for scheme in ("Bearer", "bearer"):
        assert service("GET", "/info", headers={"Authorization": f"{scheme} a secret"}).status_code == 200
    with pytest.raises(InputError, match="token is empty"):
        ServerOptions(token=" ")
    with pytest.raises(InputError, match="queue must be above 0"):
        ServerOptions(queue=0)


def test_browsers_of_other_origins_are_let_in_only_when_named(serve: Serve, index: Index) -> None:
    asked = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    closed = serve(index)("OPTIONS", "/search", headers=asked)
    assert "access-control-allow-origin" not in closed.headers
    opened = serve(index, ServerOptions(token="t", allow_origins=("https://a.example",)))
    assert opened("OPTIONS", "/search", headers=asked).headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize("bad", ["raises", "nan", "short"])
def test_a_scorer_that_fails_tells_clients_nothing_of_its_own(serve: Serve, world: Any, bad: str, caplog: Any) -> None:
    def score(pairs: Any) -> list[float]:
        if any("bird" in query for query, _ in pairs):
            if bad == "raises":
                raise RuntimeError("password at /home/me")
            return [float("nan")] * len(pairs) if bad == "nan" else [1.0]
        return list(world._score(pairs))

    scorer = FunctionScorer(score, name="fails", batch_size=100)
    service = serve(Index.build(world.items, scorer=scorer, first_stage=world.dense))
    failing = next(query for query in world.queries if "bird" in query)
    for path, body in (("/search", {"query": failing}), ("/rerank", {"query": failing, "texts": ["a", "b"]})):
        answer = service.post(path, body)
        assert (answer.status_code, answer.headers["content-type"]) == (502, "application/problem+json")
        assert "Error" not in answer.text
        assert "/home/me" not in answer.text
    assert "event: error" in service.post("/search/stream", {"query": failing}).text
    assert service.post("/search", {"query": world.queries[0]}).status_code == 200
    assert "the scorer failed" in caplog.text


async def _hung_up(service: Any, path: str, body: Any, while_open: Callable[[list[Any]], Any]) -> list[Any]:
    """What is sent to a client that hangs up as soon as `while_open` is true of it."""
    content, sent = json.dumps(body).encode(), []
    asked = False

    async def receive() -> dict[str, Any]:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": content, "more_body": False}
        while not while_open(sent):
            await asyncio.sleep(0.005)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    scope = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.0"}, "http_version": "1.1"}
    scope |= {"method": "POST", "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": headers, "client": ("test", 1), "server": ("test", 80)}
    await asyncio.wait_for(service.app(scope, receive, send), 5)
    return sent


@pytest.mark.parametrize("path", ["/search", "/search/stream", "/rerank"])
def test_a_client_that_hangs_up_gives_up_its_place(serve: Serve, world: Any, path: str) -> None:
    go, asked = threading.Event(), threading.Event()

    def score(pairs: Any) -> list[float]:
        asked.set()
        assert go.wait(10)
        return [0.0] * len(pairs)

    scorer = FunctionScorer(score, name="gate", batch_size=1000)
    service = serve(Index.build(world.items, scorer=scorer, first_stage=world.dense))
    body = {"query": world.queries[0]} | ({"texts": world.items[:3]} if path == "/rerank" else {"budget": 40})
    asyncio.run(_hung_up(service, path, body, lambda _: asked.is_set()))
    assert service.app.state.service.scheduler.waiting == 0
    if path != "/search/stream":
        assert f'route="{path}",status="499"' in service.get("/metrics").text
    go.set()


def test_rounds_are_sent_while_the_search_goes_on(serve: Serve, world: Any) -> None:
    turns = threading.Semaphore(2)

    def score(pairs: Any) -> list[float]:
        assert turns.acquire(timeout=10)
        return list(world._score(pairs))

    scorer = FunctionScorer(score, name="turns", batch_size=1000)
    service = serve(Index.build(world.items, scorer=scorer, first_stage=world.dense))

    def two_rounds(sent: list[Any]) -> bool:
        return sum(b"event: round" in message.get("body", b"") for message in sent) == 2

    sent = asyncio.run(_hung_up(service, "/search/stream", {"query": world.queries[0], "budget": 40}, two_rounds))
    assert b"event: done" not in b"".join(message.get("body", b"") for message in sent)
    turns.release(20)


def test_the_scheduler_ends_with_the_app(serve: Serve, index: Index) -> None:
    service = serve(index)

    async def live() -> None:
        async with service.app.router.lifespan_context(service.app):
            assert service.app.state.service.scheduler.alive

    asyncio.run(live())
    assert not service.app.state.service.scheduler.alive


def test_the_token_is_compared_in_constant_time(serve: Serve, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((a, b))
        return a == b

    monkeypatch.setattr("crossknn.server.limits.hmac.compare_digest", compare)
    service = serve(index, ServerOptions(token="pässword"))
    assert service("GET", "/info", headers={"Authorization": "Bearer pässword".encode()}).status_code == 200
    assert service("GET", "/info", headers={"Authorization": "Bearer x"}).status_code == 401
    assert [a for a, _ in compared] == ["pässword".encode(), b"x"]


def test_the_cache_is_counted(serve: Serve, world: Any, tmp_path: Path) -> None:
    scorer = CachedScorer(world.scorer, tmp_path / "scores.sqlite")
    service = serve(Index.build(world.items, scorer=scorer, first_stage=world.dense))
    for _ in range(2):
        service.post("/search", {"query": world.queries[0], "budget": 13})
    metrics = service.get("/metrics").text
    assert "crossknn_cache_hits 13.0" in metrics
    assert "crossknn_cache_misses 13.0" in metrics


def test_a_scorer_that_would_end_the_process_ends_a_request(serve: Serve, world: Any) -> None:
    def score(pairs: Any) -> list[float]:
        if any("bird" in query for query, _ in pairs):
            sys.exit(3)
        return list(world._score(pairs))

    scorer = FunctionScorer(score, name="exits", batch_size=100)
    service = serve(Index.build(world.items, scorer=scorer, first_stage=world.dense))
    failing = next(query for query in world.queries if "bird" in query)
    assert service.post("/search", {"query": failing}).status_code == 502
    assert service.post("/search", {"query": world.queries[0]}).status_code == 200
    assert service.get("/ready").status_code == 200


def test_no_limit_is_passed_by(serve: Serve, index: Index, world: Any) -> None:
    service, query = serve(index, ServerOptions(max_budget=20, max_filter=5, queue=7)), world.queries[0]
    assert service.get("/info").json()["limits"]["max_queries"] == 7
    assert "queries is 8, and 7 is the most" in service.post("/search", {"query": [query] * 8}).text
    (found,) = service.post("/search", {"query": query, "filter": None}).json()["results"]
    assert found["calls"] == 20
    assert service.get("/info").json()["default_budget"] == 20
    for more, message in (
        ({"ids": {"only": ["1"] * 3, "without": ["2"] * 3}}, "the number of ids is 6, and 5 is the most"),
        ({"filter": {"a": [1, 2, 3, 4, 5]}}, "values in the filter is 6, and 5"),
        ({"filter": {"a": {"not": [1, 2, 3, 4]}}}, "values in the filter is 6, and 5"),
    ):
        refused = service.post("/search", {"query": query} | more)
        assert refused.status_code == 422
        assert message in refused.json()["detail"]


def test_a_request_reaches_no_file_and_no_pickle(serve: Serve, index: Index, world: Any) -> None:
    service, seen, watching = serve(index), [], True

    def hook(event: str, arguments: Any) -> None:
        if watching and (event == "open" or event.startswith("pickle")):
            seen.append((event, str(arguments[0])))

    service.post("/search", {"query": world.queries[0]})  # whatever is imported late is imported now
    service.get("/")
    seen.clear()
    sys.addaudithook(hook)
    for path in ("/items/../../etc/passwd", "/items/%2e%2e%2fetc%2fpasswd", "/../etc/passwd", "//etc/passwd"):
        assert service.get(path).status_code == 404
    for method in ("../../etc/passwd", "/etc/passwd", "python:os:system"):
        assert service.post("/search", {"query": world.queries[0], "method": method}).status_code == 422
    answer = service.post("/rerank", {"query": "/etc/passwd", "texts": ["file:///etc/passwd"], "model": "/etc/passwd"})
    watching = False
    assert answer.status_code in (200, 502)
    assert not [event for event in seen if "passwd" in event[1] or event[0].startswith("pickle")]
