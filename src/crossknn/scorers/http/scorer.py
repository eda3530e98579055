"""A rerank service as a scorer: pairs in requests, several under way, answers in the order of the pairs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import CrossKNNWarning, ScorerError
from crossknn.scorers.base import Fingerprint
from crossknn.scorers.http.apis import RerankAPI
from crossknn.scorers.http.client import Client, HTTPOptions

_SATURATED = 2.0**-24  # the distance from 1 to the float32 below it

Job = TypeVar("Job")
Result = TypeVar("Result")


class HTTPScorer:
    """A cross-encoder behind a rerank service.

    Example:
        ``HTTPScorer(TEI("http://localhost:8080"))`` or ``HTTPScorer(Cohere(model="rerank-v3.5", api_key=key))``

    Where a service answers with probabilities p, scores are log(p / (1 - p)). What float32 cannot tell from 0 or 1 is
    taken to -16.64 or 16.64 (p within 2^-24), with a warning: such scores tie. Raw logits are better where there is a
    choice.

    Args:
        api: the kind of service and its address.
        options: batches, requests under way, timeouts, retries.

    Raises:
        ScorerError: the service does not describe itself (TEI's ``/info``; the others are not asked).

    Cost: one CE call a pair; a pair that is tried again is computed again by the service. A request holds one query
        and up to ``batch_size`` items.
    """

    def __init__(self, api: RerankAPI, options: HTTPOptions | None = None) -> None:
        self._client = Client(api, options or HTTPOptions())
        served = api.served(self._client.get(api.info_path) if api.info_path else None)
        if served.batch_limit is not None:
            self._client.batch_size = min(self._client.batch_size, served.batch_limit)
        scale = "raw" if api.raw else "logit"
        self.fingerprint = Fingerprint(model=f"{api.name}:{served.model}:{scale}", kernel=api.service)

    def prepare(self, items: Sequence[str]) -> BoundHTTPScorer:
        """Keep the items; the service tokenises them pair by pair. Costs no CE call."""
        return BoundHTTPScorer(self._client, items)


class BoundHTTPScorer:
    """An :class:`HTTPScorer` with its items.

    Attributes:
        saturated: probabilities too close to 0 or 1 so far.
    """

    def __init__(self, client: Client, items: Sequence[str]) -> None:
        self._client, self._items = client, items
        self.saturated = 0

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """Raw logits; see :class:`~crossknn.scorers.base.BoundScorer`.

        Raises:
            ScorerError: a request failed for good; the others are given up.
        """

        def ask(rows: IntArray, stop: Event) -> list[float]:
            texts = [self._items[i] for i in item_indices[rows]]
            return self._client.scores(queries[query_indices[rows[0]]], texts, stop)

        batches = list(_batches_of_one_query(query_indices, self._client.batch_size))
        scores = np.empty(len(item_indices))
        for rows, found in zip(batches, _at_once(ask, batches, self._client.in_flight), strict=True):
            scores[rows] = found
        return scores if self._client.api.raw else self._logits(scores)

    def _logits(self, probabilities: FloatArray) -> FloatArray:
        outside = (probabilities < 0) | (probabilities > 1)
        if outside.any():
            raise ScorerError(
                f"{self._client.api.endpoint} answered {probabilities[outside][0]:g}, which is no probability; if the "
                f"service answers with raw logits, say so: {type(self._client.api).__name__}(..., raw=True)"
            )
        clipped = np.clip(probabilities, _SATURATED, 1 - _SATURATED)
        n_saturated = int((clipped != probabilities).sum())
        if n_saturated and not self.saturated:
            warnings.warn(
                f"{n_saturated} of {len(probabilities)} probabilities are too close to 0 or 1 to be told apart: their "
                "scores tie; let the service answer with raw logits if it can (said once)",
                CrossKNNWarning,
                stacklevel=3,
            )
        self.saturated += n_saturated
        logits: FloatArray = np.log(clipped) - np.log1p(-clipped)
        return logits


def _batches_of_one_query(query_indices: IntArray, size: int) -> Iterator[IntArray]:
    """Positions of pairs, such that a batch holds pairs of one query only."""
    order = np.argsort(query_indices, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(query_indices[order])) + 1):
        for start in range(0, len(rows), size):
            yield rows[start : start + size]


def _at_once(work: Callable[[Job, Event], Result], jobs: Sequence[Job], n_threads: int) -> list[Result]:
    """Results of ``work`` for all jobs, several at a time; the first error is raised and stops the rest.

    Unlike an executor's, the threads are daemons: neither Ctrl-C nor the end of the program waits for a service that
    does not answer.
    """
    waiting: SimpleQueue[tuple[int, Job]] = SimpleQueue()
    done: SimpleQueue[tuple[int, Any, BaseException | None]] = SimpleQueue()
    stop = Event()

    def work_off() -> None:
        while not stop.is_set():
            try:
                n, job = waiting.get_nowait()
            except Empty:
                return
            try:
                done.put((n, work(job, stop), None))
            except BaseException as error:  # noqa: BLE001 (raised where the results are awaited)
                done.put((n, None, error))  # before the others hear of it: the first error is the one that is told
                stop.set()

    for numbered in enumerate(jobs):
        waiting.put(numbered)
    for _ in range(min(n_threads, len(jobs))):
        Thread(target=work_off, name="crossknn-http", daemon=True).start()
    results: dict[int, Result] = {}
    try:
        for _ in jobs:
            n, result, error = done.get()
            if error is not None:
                raise error
            results[n] = result
    finally:
        stop.set()
    return [results[n] for n in range(len(jobs))]
