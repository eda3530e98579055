"""What is refused before a request is read, and what is counted of every one."""

from __future__ import annotations

import asyncio
import hmac
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crossknn.server.metrics import Metrics
from crossknn.server.options import ServerOptions
from crossknn.server.problems import Problem

_OPEN = ("/", "/health", "/ready")


class Limited:
    """Asks for the token, counts, and refuses bodies that are too large, before anything is read or parsed."""

    def __init__(self, app: ASGIApp, options: ServerOptions, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI calls an app."""
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
