"""A client of ``crossknn serve``; needs no extra."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import urllib3

from crossknn.errors import CrossKNNError, InputError
from crossknn.results import Hit, SearchResult
from crossknn.search.rounds import RoundCost

T = TypeVar("T")


class ServiceError(CrossKNNError):
    """The service could not be reached, or could not answer.

    Attributes:
        status: HTTP status; None if there was no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Searches an index that is served elsewhere.

    Args:
        url: where the service is, such as ``http://127.0.0.1:8080``.
        token: sent as bearer token.
        timeout: seconds to wait for an answer.
        retries: how often a busy service (429, 503), or one that cannot be connected to, is asked again, after as long
            as it says. One that took a request and does not answer in time is not: it may be searching still.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout: float = 60.0, retries: int = 3) -> None:
        self._url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {token}".encode().decode("latin-1")} if token else {}
        again = urllib3.Retry(
            total=retries,
            read=0,
            other=0,
            backoff_factor=0.5,
            status_forcelist=(429, 503),
            allowed_methods=None,
            raise_on_status=False,
        )
        self._pool = urllib3.PoolManager(headers=headers, timeout=timeout, retries=again)

    def search(self, query: str, **settings: Any) -> SearchResult:
        """:meth:`crossknn.Index.search`, by the service.

        Args:
            query: the query's text.
            settings: ``k``, ``budget``, ``target_recall``, ``max_ms``, ``method`` (a name), ``ids``,
                ``filter`` (conditions on metadata).

        Raises:
            InputError: the service refuses the request.
            ServiceError: it cannot be reached, or fails.
        """
        return self.search_batch([query], **settings)[0]

    def search_batch(self, queries: Sequence[str], **settings: Any) -> list[SearchResult]:
        """:meth:`search` for many queries; more than a request may have go in several."""
        asked, settings = list(queries), {"trace": True} | settings
        most = len(asked) if len(asked) < 2 else int(self.info()["limits"]["max_queries"])
        results: list[SearchResult] = []
        for start in range(0, len(asked), max(most, 1)):
            answer = self._ask("POST", "/search", {"query": asked[start : start + most]} | settings)
            results += [_result(result) for result in answer["results"]]
        return results

    def rerank(self, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
        """Positions of documents and their raw logits, best first. One CE call a document.

        Raises:
            InputError: the service refuses the request.
            ServiceError: it cannot be reached, or fails.
        """
        answer = self._ask("POST", "/rerank", {"query": query, "texts": list(documents), "raw_scores": True})
        return [(row["index"], row["score"]) for row in answer]

    def info(self) -> dict[str, Any]:
        """What is served, and within which limits."""
        answer: dict[str, Any] = self._ask("GET", "/info")
        return answer

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        try:
            answer = self._pool.request(method, self._url + path, json=body)
        except urllib3.exceptions.HTTPError as error:
            raise ServiceError(f"{self._url} cannot be reached: {error}") from error
        try:
            content = answer.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            content = {}
        if answer.status == 200:
            return content
        detail = content.get("detail", "no reason given") if isinstance(content, dict) else "no reason given"
        if answer.status in (401, 404, 413, 422):
            raise InputError(f"{self._url} answered {answer.status}: {detail}")
        raise ServiceError(f"{self._url} answered {answer.status}: {detail}", answer.status)


def _result(plain: dict[str, Any]) -> SearchResult:
    hits = tuple(_known(Hit, hit) for hit in plain["hits"])
    trace = tuple(_known(RoundCost, cost | {"calls": int(cost["calls"])}) for cost in plain.get("trace") or ())
    return SearchResult(plain["query"], hits, plain["calls"], trace, plain.get("expected_recall"))


def _known(kind: type[T], plain: dict[str, Any]) -> T:
    """What a service says, less what a newer one says besides."""
    return kind(**{field.name: plain[field.name] for field in fields(kind) if field.name in plain})  # type: ignore[arg-type]
