"""Errors as problem details (RFC 9457): whatever goes wrong, a client gets JSON of one form and never a stack trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from crossknn.errors import InputError, ScorerError
from crossknn.server.scheduler import ClosedError, QueueFullError

CONTENT_TYPE = "application/problem+json"
_log = logging.getLogger("crossknn.server")


class Problem(Exception):
    """An answer that is a problem.

    Attributes:
        status: HTTP status.
        detail: what happened, and what to try.
        headers: of the answer.
    """

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers

    def document(self) -> dict[str, object]:
        """The problem document."""
        known = self.status in list(HTTPStatus)
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase if known else "Client Closed Request",  # 499, which nobody reads
            "status": self.status,
            "detail": self.detail,
        }

    def response(self) -> JSONResponse:
        """The answer."""
        return JSONResponse(self.document(), self.status, self.headers, media_type=CONTENT_TYPE)


def problem_of(error: BaseException) -> Problem:
    """What a client is told of an error; what it is not told goes to the log."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, QueueFullError):
        return Problem(429, f"{error}; try again in a second", {"Retry-After": "1"})
    if isinstance(error, ClosedError):
        return Problem(503, str(error), {"Retry-After": "10"})
    if isinstance(error, InputError):
        return Problem(422, str(error))
    if isinstance(error, ScorerError):
        _log.error("the scorer failed: %s", error)
        return Problem(502, "the cross-encoder failed on this request; the service's log says how")
    _log.error("an error that nobody expected", exc_info=error)
    return Problem(500, "an error that nobody expected; the service's log has more")


def _said(wrong: Mapping[str, Any]) -> str:
    """What a request has that it should not have, in words."""
    where = ".".join(map(str, wrong["loc"][1:])) or str(wrong["loc"][0])
    if wrong["type"] == "json_invalid":
        return (
            f"the body is no JSON: {wrong.get('ctx', {}).get('error', 'it cannot be read')} (at its character {where})"
        )
    return f"{where}: {wrong['msg']}"


def install(app: FastAPI) -> None:
    """Make an app answer every error with a problem document."""

    async def validation(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        wrong = [_said(e) for e in error.errors()[:5]]
        return Problem(422, "; ".join(wrong)[:1000]).response()

    async def http(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return Problem(error.status_code, str(error.detail), dict(error.headers or {})).response()

    async def any_other(_: Request, error: Exception) -> JSONResponse:
        return problem_of(error).response()

    app.add_exception_handler(RequestValidationError, validation)
    app.add_exception_handler(HTTPException, http)
    for kind in (Problem, InputError, ScorerError, QueueFullError, ClosedError, Exception):
        app.add_exception_handler(kind, any_other)
