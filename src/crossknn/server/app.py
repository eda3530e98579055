"""The HTTP service's routes."""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossknn.checks import check_unicode
from crossknn.errors import InputError
from crossknn.index import Index, OpenSearch
from crossknn.results import SearchResult
from crossknn.search import METHODS, method_named
from crossknn.server.metrics import Metrics
from crossknn.server.models import (
    CohereRequest,
    FieldModel,
    IdFilter,
    InfoModel,
    ItemModel,
    SearchRequest,
    SearchResponse,
    StateModel,
    StreamRequest,
    TEIRequest,
)
from crossknn.server.options import ServerOptions
from crossknn.server.problems import CONTENT_TYPE, Problem, install, problem_of
from crossknn.server.scheduler import Job, Scheduler

_OPEN = ("/", "/health", "/ready")
_PROBLEM = {"description": "What is wrong (RFC 9457).", "content": {CONTENT_TYPE: {"schema": {"type": "object"}}}}
_PROBLEMS: dict[int | str, dict[str, Any]] = dict.fromkeys((400, 401, 408, 413, 422, 429, 502, 503, 504), _PROBLEM)
_LIMITS = ("max_k", "max_budget", "max_queries", "max_documents", "max_text", "max_filter")
_STUCK_SECONDS = 60.0
_PAGE = Path(__file__).parent / "page.html"
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def create_app(index: Index, options: ServerOptions | None = None, *, examples: list[str] | None = None) -> FastAPI:
    """An ASGI app that serves an index.

    Args:
        index: what is searched; nothing else may search it meanwhile.
        options: limits, token, batching.
        examples: queries that the page offers; None takes three of the train queries.

    Cost of ``/search``: as :meth:`crossknn.Index.search`; of ``/rerank``: one CE call a document.
    """
    options = options or ServerOptions()
    scheduler = Scheduler(index, batch_pairs=options.batch_pairs, wait_ms=options.wait_ms, queue=options.queue)
    metrics = Metrics(scheduler)
    positions = {item_id: n for n, item_id in enumerate(index.item_ids)}
    examples = index.train_queries[:3] if examples is None else examples
    fields = _fields(index)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(scheduler.close, 1.0)  # the server has waited for requests before

    app = FastAPI(
        title="crossknn", version=version("crossknn"), lifespan=lifespan, redoc_url=None, redirect_slashes=False
    )
    app.state.scheduler = scheduler
    install(app)
    app.add_middleware(_Limited, options=options, metrics=metrics)
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.allow_origins), allow_methods=["*"], allow_headers=["*"]
        )

    default_budget = min(index.default_budget(), options.max_budget)

    def jobs_of(asked: SearchRequest) -> list[Job]:
        """A job for each query; nothing is opened yet."""
        queries = [asked.query] if isinstance(asked.query, str) else asked.query
        _at_most("queries", len(queries), min(options.max_queries, options.queue))
        _at_most("k", asked.k, options.max_k)
        _at_most("budget", asked.budget or 1, options.max_budget)
        _check_texts("a query", queries, options.max_text)
        method = None if asked.method is None else method_named(asked.method)
        settings: dict[str, Any] = {
            "k": asked.k,
            "budget": asked.budget or default_budget,
            "target_recall": asked.target_recall,
            "max_ms": asked.max_ms,
            "method": method,
            "filter": _mask(asked, index, positions, options.max_filter),
        }
        return [Job(partial(index.open_search, query, **settings)) for query in queries]

    @app.post("/search", response_model_exclude_none=True, responses=_PROBLEMS)
    async def search(asked: SearchRequest, request: Request) -> SearchResponse:
        """Search: one result for each query."""
        jobs = await asyncio.to_thread(jobs_of, asked)  # a large filter holds up no other request
        scheduler.submit(*jobs)
        results = await _all(jobs, request, options.deadline_seconds)
        for done, result in zip(jobs, results, strict=True):
            metrics.searched(result, done.times)
        return SearchResponse.model_validate({"results": [_plain(result, trace=asked.trace) for result in results]})

    @app.post("/search/stream", responses=_PROBLEMS | {200: {"content": {"text/event-stream": {}}}})
    async def stream(asked: StreamRequest, request: Request) -> StreamingResponse:
        """Search one query; server-sent events tell of each round (``round``) and the end (``done``, or ``error``)."""
        (running,), loop = await asyncio.to_thread(jobs_of, asked), asyncio.get_running_loop()
        rounds: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def told(search: OpenSearch) -> None:
            scored = search.scored()
            last = scored[-1].round
            state = _plain(search.result(), trace=True) | {"scored": [asdict(s) for s in scored if s.round == last]}
            loop.call_soon_threadsafe(rounds.put_nowait, state)

        running.on_round = told
        running.future.add_done_callback(lambda _: loop.call_soon_threadsafe(rounds.put_nowait, None))
        scheduler.submit(running)
        return StreamingResponse(
            _events(running, rounds, options.deadline_seconds, request, metrics),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.post("/rerank", responses=_PROBLEMS)
    @app.post("/v1/rerank", include_in_schema=False)
    @app.post("/v2/rerank", include_in_schema=False)
    async def rerank(asked: CohereRequest | TEIRequest, request: Request) -> Any:
        """Rerank documents of yours, in the shape of Cohere's API (``documents``) or of TEI's (``texts``)."""
        if isinstance(asked, TEIRequest):
            documents = asked.texts
        else:
            documents = [d if isinstance(d, str) else d.text for d in asked.documents]
        _at_most("documents", len(documents), options.max_documents)
        _check_texts("a query", [asked.query], options.max_text)
        _check_texts("a document", documents, options.max_text, empty=True)
        future = scheduler.rerank(asked.query, documents)
        scores = await _one(asyncio.wrap_future(future), request, options.deadline_seconds, future.cancel)
        order = np.argsort(-scores, kind="stable").tolist()
        if isinstance(asked, TEIRequest):
            texts = {n: {"text": documents[n]} for n in order} if asked.return_text else {}
            shown = scores.tolist() if asked.raw_scores else [_sigmoid(s) for s in scores]
            return [{"index": n, "score": shown[n]} | texts.get(n, {}) for n in order]
        kept = order[: asked.top_n]
        texts = {n: {"document": {"text": documents[n]}} for n in kept} if asked.return_documents else {}
        return {
            "results": [{"index": n, "relevance_score": _sigmoid(scores[n])} | texts.get(n, {}) for n in kept],
            "meta": {"api_version": {"version": "2"}},
        }

    @app.get("/items/{item_id:path}", responses=_PROBLEMS | {404: _PROBLEM})
    async def item(item_id: str) -> ItemModel:
        """An item by its id."""
        if item_id not in positions:
            raise Problem(404, "there is no item with this id")
        at = positions[item_id]
        return ItemModel(id=item_id, text=index.items[at], metadata=index.metadata[at])

    @app.get("/health")
    async def health() -> StateModel:
        """Whether the process answers."""
        return StateModel()

    @app.get("/ready", responses={503: _PROBLEM})
    async def ready() -> StateModel:
        """Whether it can search now: the scheduler lives, and no batch has hung for a minute."""
        busy = scheduler.busy_since
        if not scheduler.alive or (busy is not None and time.perf_counter() - busy > _STUCK_SECONDS):
            raise Problem(503, "the scorer does not answer")
        return StateModel()

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Counters in Prometheus's format."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/info")
    async def info() -> InfoModel:
        """What is served, and within which limits."""
        default = index.default_method()
        named = next((name for name, method in METHODS.items() if method == default), "tuned")
        return InfoModel(
            version=version("crossknn"),
            items=len(index),
            scorer=index.scorer.fingerprint.model,
            first_stage=index.first_stage.fingerprint,
            methods=list(METHODS),
            default_method=index.tuning.method if index.tuning is not None else named,
            default_budget=default_budget,
            default_rounds=default.rounds,
            limits={name: getattr(options, name) for name in _LIMITS}
            | {"max_queries": min(options.max_queries, options.queue)},
            examples=examples,
            fields=fields,
            model_id=index.scorer.fingerprint.model,
            max_input_length=options.max_text,
            max_client_batch_size=options.max_documents,
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    return app


def _plain(result: SearchResult, *, trace: bool) -> dict[str, Any]:
    plain = result.to_dict()
    if not trace:
        del plain["trace"]
    return plain


def _fields(index: Index) -> list[FieldModel]:
    values = {name: [value for value, _ in index.metadata.values(name)] for name in index.metadata.fields}
    return [FieldModel(name=name, distinct=len(of_field), values=of_field[:50]) for name, of_field in values.items()]


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise Problem(422, f"{name} is {value}, and {most} is the most here")


def _check_texts(what: str, texts: list[str], most: int, *, empty: bool = False) -> None:
    if not texts:
        raise Problem(422, "there is no query")
    for text in texts:
        if not empty and not text.strip():
            raise Problem(422, f"{what} is empty")
        if len(text) > most:
            raise Problem(422, f"{what} has {len(text)} characters, and {most} is the most here")
        check_unicode(what, text)


def _mask(asked: SearchRequest, index: Index, positions: dict[str, int], most: int) -> np.ndarray | None:
    if asked.ids is None and not asked.filter:
        return None
    ids = asked.ids or IdFilter(only=None)
    _at_most("the number of ids", len(ids.only or []) + len(ids.without), most)
    _at_most("the number of values in the filter", sum(map(_size, (asked.filter or {}).values())), most)
    unknown = [i for i in [*(ids.only or []), *ids.without] if i not in positions]
    if unknown:
        raise InputError(f"there is no item with the id {unknown[0][:100]!r}")
    mask = np.full(len(positions), ids.only is None)
    mask[[positions[i] for i in ids.only or []]] = True
    mask[[positions[i] for i in ids.without]] = False
    mask &= index.metadata.mask(asked.filter or {})
    if not mask.any():
        raise InputError("the filter leaves no item")
    return mask


def _size(condition: Any) -> int:
    inner = condition.values() if isinstance(condition, dict) else condition if isinstance(condition, list) else ()
    return 1 + sum(map(_size, inner))


async def _all(jobs: list[Job], request: Request, seconds: float) -> list[SearchResult]:
    def give_up() -> None:
        for each in jobs:
            each.cancel()

    together = asyncio.gather(*(asyncio.wrap_future(each.future) for each in jobs))
    try:
        results: list[SearchResult] = await _one(together, request, seconds, give_up)
    finally:
        give_up()  # where one has failed, the others' results are not wanted either
    return results


async def _one(future: asyncio.Future[Any], request: Request, seconds: float, give_up: Callable[[], object]) -> Any:
    """A result; or a problem when it takes too long, and the place given up when the client has gone."""
    end = time.monotonic() + seconds
    try:
        while True:
            done, _ = await asyncio.wait({future}, timeout=min(0.25, max(0.0, end - time.monotonic())))
            if done:
                return future.result()
            if time.monotonic() >= end:
                raise Problem(504, f"this took longer than {seconds:g} seconds: ask for fewer calls, or again later")
            if await request.is_disconnected():
                raise Problem(499, "the client has gone")
    finally:
        if not future.done():
            give_up()
            future.cancel()
            future.add_done_callback(_seen)
        else:
            _seen(future)


def _seen(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more: its error is no news."""
    if not future.cancelled():
        future.exception()


async def _events(
    running: Job,
    rounds: asyncio.Queue[dict[str, Any] | None],
    seconds: float,
    request: Request,
    metrics: Metrics,
) -> AsyncIterator[str]:
    end = time.monotonic() + seconds
    try:
        while True:
            state = await asyncio.wait_for(rounds.get(), max(0.0, end - time.monotonic()))
            if state is None:
                break
            yield _event("round", state)
        result = running.future.result()
        metrics.searched(result, running.times)
        yield _event("done", _plain(result, trace=True))
    except asyncio.TimeoutError:
        yield _event("error", Problem(504, f"this took longer than {seconds:g} seconds").document())
    except Exception as error:  # noqa: BLE001 - the status line is sent already, so the problem is an event
        yield _event("error", problem_of(error).document())
    finally:
        running.cancel()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


class _Limited:
    """Asks for the token, counts, and refuses bodies that are too large, before anything is read or parsed."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        read, whole = 0, False

        async def receiving() -> Message:
            nonlocal read, whole
            if whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), start + self._options.body_seconds - time.perf_counter())
            except asyncio.TimeoutError:
                raise HTTPException(408, "the body did not come in time", {"Connection": "close"}) from None
            read, whole = read + len(message.get("body", b"")), not message.get("more_body", False)
            if read > self._options.max_body_bytes:
                raise HTTPException(413, self._too_large().detail, {"Connection": "close"})
            return message

        try:
            headers = dict(scope["headers"])
            if not self._may(scope["path"], headers):
                raise Problem(401, "send 'Authorization: Bearer TOKEN'", {"WWW-Authenticate": "Bearer"})
            said = headers.get(b"content-length", b"0")
            if not said.isdigit() or int(said) > self._options.max_body_bytes:
                raise self._too_large()
            await self._app(scope, receiving, sending)
        except Problem as problem:
            await problem.response()(scope, receive, sending)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.seconds.labels(route).observe(time.perf_counter() - start)

    def _may(self, path: str, headers: dict[bytes, bytes]) -> bool:
        token = self._options.token
        if token is None or path in _OPEN:
            return True
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), token.encode())

    def _too_large(self) -> Problem:
        return Problem(413, f"a request may have {self._options.max_body_bytes} bytes at most")
