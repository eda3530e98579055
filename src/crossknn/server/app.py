"""The HTTP service's routes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, PlainTextResponse, StreamingResponse

from crossknn.index import Index
from crossknn.open_search import OpenSearch
from crossknn.search import METHODS
from crossknn.server.asked import check_rerank, jobs_of
from crossknn.server.limits import Limited
from crossknn.server.models import (
    CohereRequest,
    InfoModel,
    ItemAnswer,
    SearchRequest,
    SearchResponse,
    StateModel,
    StreamRequest,
    TEIRequest,
    plain,
)
from crossknn.server.options import ServerOptions
from crossknn.server.problems import CONTENT_TYPE, Problem, install
from crossknn.server.scheduler import Job
from crossknn.server.service import Service
from crossknn.server.waiting import events, wait_for_all, wait_for_one

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
        index: what is searched; nothing else may search it meanwhile. ``app.state.service.replace(other)`` serves
            another with the same scorer from then on.
        options: limits, token, batching.
        examples: queries that the page offers; None takes three of the train queries.

    Cost of ``/search``: as :meth:`crossknn.Index.search`; of ``/rerank``: one CE call a document.
    """
    options = options or ServerOptions()
    service = Service(index, options, examples)
    scheduler, metrics = service.scheduler, service.metrics

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(scheduler.close, 1.0)  # the server has waited for requests before

    app = FastAPI(
        title="crossknn", version=version("crossknn"), lifespan=lifespan, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    install(app)
    app.add_middleware(Limited, options=options, metrics=metrics)
    if options.allow_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(options.allow_origins), allow_methods=["*"], allow_headers=["*"]
        )

    def to_jobs(asked: SearchRequest) -> list[Job]:
        return jobs_of(asked, service.now, options)

    @app.post("/search", response_model_exclude_none=True, responses=_PROBLEMS)
    async def search(asked: SearchRequest, request: Request) -> SearchResponse:
        """Search: one result for each query."""
        jobs = await asyncio.to_thread(to_jobs, asked)  # a large filter holds up no other request
        scheduler.submit(*jobs)
        results = await wait_for_all(jobs, request, options.deadline_seconds)
        for done, result in zip(jobs, results, strict=True):
            metrics.searched(result, done.times)
        return SearchResponse.model_validate({"results": [plain(result, trace=asked.trace) for result in results]})

    @app.post("/search/stream", responses=_PROBLEMS | {200: {"content": {"text/event-stream": {}}}})
    async def stream(asked: StreamRequest) -> StreamingResponse:
        """Search one query; server-sent events tell of each round (``round``) and the end (``done``, or ``error``)."""
        (running,), loop = await asyncio.to_thread(to_jobs, asked), asyncio.get_running_loop()
        rounds: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()

        def told(search: OpenSearch) -> None:
            scored = search.scored()
            last = scored[-1].round
            state = plain(search.result(), trace=True) | {"scored": [asdict(s) for s in scored if s.round == last]}
            loop.call_soon_threadsafe(rounds.put_nowait, state)

        running.on_round = told
        running.future.add_done_callback(lambda _: loop.call_soon_threadsafe(rounds.put_nowait, None))
        scheduler.submit(running)
        return StreamingResponse(
            events(running, rounds, options.deadline_seconds, metrics),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
        )

    @app.post("/rerank", responses=_PROBLEMS)
    @app.post("/v1/rerank", include_in_schema=False)
    @app.post("/v2/rerank", include_in_schema=False)
    async def rerank(asked: CohereRequest | TEIRequest, request: Request) -> Any:
        """Rerank documents of yours, in the shape of Cohere's API (``documents``) or of TEI's (``texts``)."""
        check_rerank(asked, options)
        future = scheduler.rerank(asked.query, asked.to_rerank)
        scores = await wait_for_one(asyncio.wrap_future(future), request, options.deadline_seconds, future.cancel)
        return asked.answer(scores)

    @app.get("/items/{item_id:path}", responses=_PROBLEMS | {404: _PROBLEM})
    async def item(item_id: str) -> ItemAnswer:
        """An item by its id."""
        now = service.now
        if item_id not in now.positions:
            raise Problem(404, "there is no item with this id")
        at = now.positions[item_id]
        return ItemAnswer(id=item_id, text=now.index.items[at], metadata=now.index.metadata[at])

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
        now = service.now
        return InfoModel(
            version=version("crossknn"),
            items=len(now.index),
            scorer=now.index.scorer.fingerprint.model,
            first_stage=now.index.first_stage.fingerprint,
            methods=list(METHODS),
            default_method=now.default_method,
            default_budget=now.default_budget,
            default_rounds=now.index.default_method().rounds,
            limits={name: getattr(options, name) for name in _LIMITS}
            | {"max_queries": min(options.max_queries, options.queue)},
            examples=now.examples,
            fields=now.fields,
            model_id=now.index.scorer.fingerprint.model,
            max_input_length=options.max_text,
            max_client_batch_size=options.max_documents,
        )

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(_PAGE, headers={"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"})

    return app
