"""Waiting for what the scheduler makes, as long as the client does and the deadline allows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import Request

from crossknn.results import SearchResult
from crossknn.server.metrics import Metrics
from crossknn.server.models import plain
from crossknn.server.problems import Problem, problem_of
from crossknn.server.scheduler import Job


async def wait_for_all(jobs: list[Job], request: Request, seconds: float) -> list[SearchResult]:
    """The results of a request's jobs; see :func:`wait_for_one`. Where one fails, all are given up."""

    def give_up() -> None:
        for each in jobs:
            each.cancel()

    together = asyncio.gather(*(asyncio.wrap_future(each.future) for each in jobs))
    try:
        results: list[SearchResult] = await wait_for_one(together, request, seconds, give_up)
    finally:
        give_up()  # where one has failed, the others' results are not wanted either
    return results


async def wait_for_one(
    future: asyncio.Future[Any], request: Request, seconds: float, give_up: Callable[[], object]
) -> Any:
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


async def events(
    running: Job,
    rounds: asyncio.Queue[dict[str, Any] | None],
    seconds: float,
    metrics: Metrics,
) -> AsyncIterator[str]:
    """Server-sent events of a job: each round as it comes until None does, then the result or the problem."""
    end = time.monotonic() + seconds
    try:
        while True:
            state = await asyncio.wait_for(rounds.get(), max(0.0, end - time.monotonic()))
            if state is None:
                break
            yield _event("round", state)
        result = running.future.result()
        metrics.searched(result, running.times)
        yield _event("done", plain(result, trace=True))
    except asyncio.TimeoutError:
        yield _event("error", Problem(504, f"this took longer than {seconds:g} seconds").document())
    except Exception as error:  # noqa: BLE001 - the status line is sent already, so the problem is an event
        yield _event("error", problem_of(error).document())
    finally:
        running.cancel()


def _seen(future: asyncio.Future[Any]) -> None:
    """Nobody waits for it any more: its error is no news."""
    if not future.cancelled():
        future.exception()


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"
