"""Asking a service: its limits, patience with its faults, and what is said when patience ends."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    InvalidHeader,
    MaxRetryError,
    NewConnectionError,
    ReadTimeoutError,
)

from crossknn.errors import InputError, ScorerError
from crossknn.scorers.http.apis import RerankAPI, shortened

_RETRIED = frozenset({408, 429, *range(500, 600)} - {501, 505, 511})
_CONNECT_SECONDS = 10.0
_LONG = 2_000
"""Letters of a text that may be what makes a request too large, if it has most of them."""
_ADVICE = {
    400: "check the model's name and the texts, or lower batch_size",
    401: "a valid api_key is needed",
    403: "the api_key is refused, or has no right to this model",
    404: "check the URL, the model's name, and that the service speaks this API ({api})",
    413: "this text alone is too large for the service: shorten it, or raise the service's limit",
    422: "it cannot read the request or its texts: check which API it speaks and the model's name, or lower batch_size",
    424: "the served model failed, or is no reranker with one logit: see the service's log",
    501: "it does not offer this: check the URL, and that the service speaks this API ({api})",
    429: "too many requests, after {retries} retries: lower in_flight, or raise retries and max_wait_seconds",
}
_FAILING = "it keeps failing, after {retries} retries: see the service's log, or lower batch_size and in_flight"


@dataclass(frozen=True)
class HTTPOptions:
    """How a service is asked.

    Attributes:
        batch_size: most texts in one request; fewer if the service says so.
        in_flight: requests under way at the same time.
        timeout_seconds: for an answer to begin, or to go on.
        retries: further attempts after an overload or a failure (408, 429, 5xx but 501, 505, 511); at most two of them
            after a connection that fails, one after an answer that breaks off or does not come.
        backoff_seconds: the pause before the second retry, doubled before each further one. The first comes at once.
        max_wait_seconds: longest pause, also where the service asks for a longer one (``Retry-After``).
        headers: sent with every request, for services that need more than an api_key; shown nowhere.

    Raises:
        InputError: a number is out of its range, or a header has characters that no header may have.
    """

    batch_size: int = 100
    in_flight: int = 4
    timeout_seconds: float = 60.0
    retries: int = 5
    backoff_seconds: float = 0.5
    max_wait_seconds: float = 60.0
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("in_flight", 1), ("retries", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if not self.timeout_seconds > 0:
            raise InputError(f"timeout_seconds must be above 0, got {self.timeout_seconds}")
        for name in ("backoff_seconds", "max_wait_seconds"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} must not be negative, got {getattr(self, name)}")
        for name, value in self.headers.items():
            if not re.fullmatch(r"[!-9;-~]+", name) or not re.fullmatch(r"[ -~]*", value):
                raise InputError(f"the header {shortened(name)} has line breaks or non-ASCII characters")


class Client:
    """Asks one service, by as many threads as wish.

    Attributes:
        api: what is asked, and how.
        in_flight: requests that may be under way at the same time.
        batch_size: most texts in one request; smaller once the service has refused larger ones.
    """

    def __init__(self, api: RerankAPI, options: HTTPOptions) -> None:
        self.api, self.in_flight, self.batch_size = api, options.in_flight, options.batch_size
        self._options = options
        key = {"Authorization": f"Bearer {api.api_key}"} if api.api_key else {}
        self._pool = urllib3.PoolManager(
            maxsize=options.in_flight,
            headers={"Accept": "application/json", "User-Agent": "crossknn", **key, **options.headers},
            timeout=urllib3.Timeout(
                connect=min(_CONNECT_SECONDS, options.timeout_seconds), read=options.timeout_seconds
            ),
        )

    def get(self, path: str) -> Any:
        """What the service answers at a path.

        Raises:
            ScorerError: it gives no answer that is JSON.
        """
        url = self.api.service + path
        return self._content(url, self._send("GET", url, None, Event()))

    def scores(self, query: str, texts: Sequence[str], stop: Event) -> list[float]:
        """Scores of texts for one query, in their order; ``stop`` ends the pauses between attempts.

        A request that is too large (413) is halved until it fits, and later ones are made no larger, unless it was one
        text that made it so large.

        Raises:
            ScorerError: the service gives none.
        """
        if len(texts) <= self.batch_size:
            response = self._send("POST", self.api.endpoint, self.api.body(query, texts), stop)
            if response.status != 413 or len(texts) == 1:
                return self.api.read(self._content(self.api.endpoint, response), len(texts))
        half, lengths = -(-len(texts) // 2), list(map(len, texts))
        scores = [*self.scores(query, texts[:half], stop), *self.scores(query, texts[half:], stop)]
        if max(lengths) <= max(_LONG, 0.75 * sum(lengths)):
            self.batch_size = min(self.batch_size, half)
        return scores

    def _send(self, method: str, url: str, body: dict[str, Any] | None, stop: Event) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool.request(method, url, json=body, retries=_Retry.of(self._options, stop), redirect=False)
        except HTTPError as error:
            reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
            raise ScorerError(f"{url} {self._no_answer(reason)}") from error

    def _no_answer(self, reason: Exception) -> str:
        if isinstance(reason, ReadTimeoutError):
            return (
                f"gave no answer within {self._options.timeout_seconds:g} s; raise timeout_seconds, or lower "
                "batch_size and in_flight"
            )
        what = shortened(self._without_secrets(str(reason)))
        if isinstance(reason, NewConnectionError | ConnectTimeoutError):
            return f"cannot be reached ({what}); check the URL, and that the service is running"
        return f"broke off without an answer ({type(reason).__name__}: {what}); check the URL and the service's log"

    def _content(self, url: str, response: urllib3.BaseHTTPResponse) -> Any:
        status = response.status
        if not 200 <= status < 300:
            advice = _ADVICE.get(status) or (_FAILING if status in _RETRIED else "an answer with status 200 is needed")
            advice = advice.format(retries=self._options.retries, api=self.api.name)
            raise ScorerError(f"{url} answered {status} ({self._message(response)}); {advice}")
        try:
            return response.json()
        except ValueError:
            raise ScorerError(
                f"{url} answered what is no JSON ({self._message(response)}); check the URL, and that no proxy or "
                "login page answers in the service's place"
            ) from None

    def _message(self, response: urllib3.BaseHTTPResponse) -> str:
        """The service's own words: the usual places in JSON, or the body as it is."""
        try:
            words = response.json()
        except ValueError:
            words = response.data.decode("utf-8", "replace")
        for key in ("error", "message", "detail"):
            if isinstance(words, dict) and words.get(key):
                words = words[key]
        return shortened(self._without_secrets(str(words or "no message")))

    def _without_secrets(self, text: str) -> str:
        """Services quote keys that they refuse."""
        values = [self.api.api_key or "", *self._options.headers.values()]
        for secret in (part for value in values for part in value.split()):
            text = text.replace(secret, "***") if len(secret) > 3 else text
        return text


class _Retry(urllib3.Retry):
    """urllib3's policy, with pauses that are bounded and end when the work they are for is given up."""

    RETRY_AFTER_STATUS_CODES = frozenset()  # Retry-After sets the pause, not what is tried again
    stop: Event

    @classmethod
    def of(cls, options: HTTPOptions, stop: Event) -> _Retry:
        retry = cls(
            total=options.retries,
            connect=min(2, options.retries),
            read=min(1, options.retries),
            allowed_methods=None,
            status_forcelist=_RETRIED,
            backoff_factor=options.backoff_seconds,
            backoff_jitter=options.backoff_seconds,
            backoff_max=options.max_wait_seconds,
            raise_on_status=False,
        )
        retry.stop = stop
        return retry

    def new(self, **changes: Any) -> _Retry:
        following = super().new(**changes)
        following.stop = self.stop
        return following

    def parse_retry_after(self, retry_after: str) -> float:
        """Seconds, parts of one too; 0, so the usual pause, for what is neither these nor a date."""
        try:
            return super().parse_retry_after(retry_after)
        except InvalidHeader:
            return float(retry_after) if re.fullmatch(r"\d+\.\d+", retry_after.strip()) else 0.0

    def sleep(self, response: urllib3.BaseHTTPResponse | None = None) -> None:
        asked = self.get_retry_after(response) if response is not None else None
        if self.stop.wait(min(asked or self.get_backoff_time(), self.backoff_max)):
            raise ScorerError("given up, since another request failed")
