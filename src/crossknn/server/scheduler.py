"""Searches of many requests, their rounds scored in shared batches.

One thread owns the index: it opens searches, asks each for the pairs of its next round, fills batches with the pairs
of all searches in turn, scores them, and tells each its scores. So nothing needs to be safe under threads, and a scorer
is called with full batches however small one search's rounds are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import CrossKNNError
from crossknn.index import Index, OpenSearch
from crossknn.results import SearchResult
from crossknn.scorers.base import checked_scores, prepared


class QueueFullError(CrossKNNError):
    """As many searches are under way as the service takes."""


class ClosedError(CrossKNNError):
    """The service is shutting down and takes no more."""


@dataclass(eq=False)
class Job:
    """One search, or one list to rerank, under way.

    Attributes:
        open: makes the search, on the scheduler's thread.
        on_round: told after every round, on the scheduler's thread.
        future: the result, or the error.
        cancelled: set by whoever no longer wants it.
        times: seconds spent waiting before it began, and in scoring with others.
    """

    open: Callable[[], OpenSearch]
    on_round: Callable[[OpenSearch], None] | None = None
    future: Future[SearchResult] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    times: dict[str, float] = field(default_factory=dict)
    _born: float = field(default_factory=time.perf_counter)
    _search: OpenSearch | None = None
    _items: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    _scores: list[FloatArray] = field(default_factory=list)
    _given: int = 0

    def cancel(self) -> None:
        """Give up its place; nothing is scored for it any more."""
        self.cancelled.set()

    def _wanted(self) -> IntArray:
        """Items of the round under way that were not scored yet; asks for the next round when there is none."""
        if self._search is None:
            self.times["queue"] = time.perf_counter() - self._born
            self._search = self.open()
        if not len(self._items) and not self._search.done:
            self._items, self._scores, self._given = self._search.ask(), [], 0
        return self._items[self._given :]

    def _take(self, scores: FloatArray) -> None:
        assert self._search is not None
        self._scores.append(scores)
        self._given += len(scores)
        if self._given == len(self._items):
            self._search.tell(np.concatenate(self._scores))
            self._items = np.empty(0, dtype=np.int64)
            if self.on_round is not None:
                self.on_round(self._search)

    def _finish_if_done(self) -> bool:
        if self._search is not None and self._search.done and not len(self._items):
            self._resolve(self._search.result())
        return self.future.done() or self.cancelled.is_set()

    def _resolve(self, result: SearchResult | Exception) -> None:
        try:
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # its request was cancelled meanwhile
            pass


class Scheduler:
    """Runs jobs over one index, in batches that they share.

    Args:
        index: what is searched; no one else may search it meanwhile.
        batch_pairs: pairs scored at a time.
        wait_ms: how long a batch that is not full waits for more.
        queue: jobs taken at the same time.

    A job's rounds are scored in turn with those of the others, so a long search holds no short one up. Where the scorer
    fails on a shared batch, every search of it is tried alone, and only those that fail then fail.
    """

    def __init__(self, index: Index, *, batch_pairs: int = 256, wait_ms: float = 2.0, queue: int = 256) -> None:
        self.index = index
        self._batch_pairs, self._wait, self._queue = batch_pairs, wait_ms / 1000, queue
        self._jobs: deque[Job] = deque()
        self._others: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self.calls = 0
        self.busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="crossknn-scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs under way or waiting."""
        return len(self._jobs) + len(self._others)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def submit(self, *jobs: Job) -> None:
        """Take jobs, all or none.

        Raises:
            QueueFullError: there are too many already.
            ClosedError: it is shutting down.
        """
        with self._changed:
            self._check_room(len(jobs))
            self._jobs.extend(jobs)
            self._changed.notify()

    def rerank(self, query: str, documents: list[str]) -> Future[FloatArray]:
        """Raw logits of a query with each of some documents, (n,) float64: as many CE calls, in one turn.

        Raises:
            QueueFullError: there are too many jobs already.
            ClosedError: it is shutting down.
        """

        def score() -> FloatArray:
            bound = prepared(self.index.scorer, documents)
            self.calls += len(documents)
            rows, columns = np.zeros(len(documents), dtype=np.int64), np.arange(len(documents))
            return checked_scores(bound, [query], rows, columns)

        future: Future[FloatArray] = Future()
        with self._changed:
            self._check_room(1)
            self._others.append((score, future))
            self._changed.notify()
        return future

    def close(self, timeout: float | None = None) -> None:
        """Take no more, finish what was taken, and stop; what is left after ``timeout`` seconds fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        for job in list(self._jobs):
            job._resolve(ClosedError("the service was shut down before this search was done"))

    def _check_room(self, n: int) -> None:
        if self._closing:
            raise ClosedError("the service is shutting down")
        if self.waiting + n > self._queue:
            raise QueueFullError(f"{self.waiting} searches are under way, and {self._queue} is the most")

    def _run(self) -> None:
        while True:
            with self._changed:
                idle = not self.waiting
                while not self.waiting:
                    if self._closing:
                        return
                    self._changed.wait()
                if idle and self._wait:
                    self._changed.wait(self._wait)  # others may come with the first
            self.busy_since = time.perf_counter()
            if self._others:
                work, future = self._others.popleft()
                self._do(work, future)
            self._score_a_batch()
            self.busy_since = None

    @staticmethod
    def _do(work: Callable[[], Any], future: Future[Any]) -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work())
        except Exception as error:  # noqa: BLE001 - it is the caller's to handle
            future.set_exception(error)

    def _score_a_batch(self) -> None:
        parts: list[tuple[Job, IntArray]] = []
        room = self._batch_pairs
        for job in list(self._jobs):
            wanted = self._wanted(job)
            if len(wanted):
                parts.append((job, wanted[:room]))
                room -= len(parts[-1][1])
                if room == 0:
                    break
        self._score(parts)
        for job in list(self._jobs):
            if job._finish_if_done():
                self._jobs.remove(job)
        for job, _ in parts:  # those that had no room begin the next batch
            if job in self._jobs:
                self._jobs.remove(job)
                self._jobs.append(job)

    def _wanted(self, job: Job) -> IntArray:
        if job.cancelled.is_set():
            return np.empty(0, dtype=np.int64)
        try:
            return job._wanted()
        except Exception as error:  # noqa: BLE001 - one search's error is no other's
            job._resolve(error)
            return np.empty(0, dtype=np.int64)

    def _score(self, parts: list[tuple[Job, IntArray]]) -> None:
        if not parts:
            return
        start = time.perf_counter()
        queries = [job._search.query for job, _ in parts if job._search is not None]
        rows = np.repeat(np.arange(len(parts)), [len(items) for _, items in parts])
        self.calls += len(rows)
        try:
            scores = self.index.score(queries, rows, np.concatenate([items for _, items in parts]))
        except CrossKNNError as error:
            if len(parts) == 1:
                parts[0][0]._resolve(error)
            else:
                for part in parts:
                    self._score([part])
            return
        seconds = time.perf_counter() - start
        for (job, _), some in zip(
            parts, np.split(scores, np.cumsum([len(items) for _, items in parts])[:-1]), strict=True
        ):
            job.times["score"] = job.times.get("score", 0.0) + seconds
            try:
                job._take(some)
            except Exception as error:  # noqa: BLE001 - one search's error is no other's
                job._resolve(error)
