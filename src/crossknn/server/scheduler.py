"""Searches of many requests, their rounds scored in shared batches.

One thread owns the scorer: it opens searches, asks each for the pairs of its next round, fills batches with the pairs
of all searches in turn, scores them, and tells each its scores. So nothing needs to be safe under threads, and a scorer
is called with full batches however small one search's rounds are.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import CrossKNNError, ScorerError
from crossknn.index import Index
from crossknn.open_search import OpenSearch
from crossknn.results import SearchResult
from crossknn.scorers.base import Scorer, checked_scores, prepared


class QueueFullError(CrossKNNError):
    """As many searches are under way as the service takes."""


class ClosedError(CrossKNNError):
    """The service is shutting down and takes no more."""


class Reranking:
    """Texts that a query is scored with, asked for and told like a search's only round.

    Attributes:
        query: the query's text.
        texts: what it is scored with.
    """

    def __init__(self, query: str, texts: Sequence[str]) -> None:
        self.query, self.texts = query, texts
        self._scores: FloatArray = np.empty(0)

    @property
    def done(self) -> bool:
        """Whether every text has its score."""
        return len(self._scores) == len(self.texts)

    def ask(self) -> IntArray:
        """(n_texts,) positions of the texts."""
        return np.arange(len(self.texts))

    def tell(self, scores: FloatArray) -> None:
        """The texts' scores, (n_texts,)."""
        self._scores = scores

    def result(self) -> FloatArray:
        """(n_texts,) the scores."""
        return self._scores


@dataclass(eq=False)
class Job:
    """One search, or one list to rerank, under way.

    Attributes:
        open: makes it, on the scheduler's thread.
        on_round: told after every round, on the scheduler's thread.
        future: the result, or the error.
        cancelled: set by whoever no longer wants it.
        times: seconds spent waiting before it began, and in scoring with others.
    """

    open: Callable[[], OpenSearch | Reranking]
    on_round: Callable[[OpenSearch], None] | None = None
    future: Future[Any] = field(default_factory=Future)
    cancelled: threading.Event = field(default_factory=threading.Event)
    times: dict[str, float] = field(default_factory=dict)
    _born: float = field(default_factory=time.perf_counter)
    _request: object = None
    _search: OpenSearch | Reranking | None = None
    _items: IntArray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    _scores: list[FloatArray] = field(default_factory=list)
    _taken: int = 0

    @property
    def over(self) -> bool:
        """Whether it has its result, or nobody wants one."""
        return self.future.done() or self.cancelled.is_set()

    def cancel(self) -> None:
        """Give up its place; nothing is scored for it any more."""
        self.cancelled.set()

    def _take(self, room: int) -> IntArray:
        """The next items, or texts, to be scored of the round under way; asks for the next round when there is none."""
        if self._search is None:
            self.times["queue"] = time.perf_counter() - self._born
            self._search = self.open()
        if not len(self._items) and not self._search.done:
            self._items, self._scores, self._taken = self._search.ask(), [], 0
        taken = self._items[self._taken : self._taken + room]
        self._taken += len(taken)
        return taken

    def _give(self, scores: FloatArray) -> None:
        assert self._search is not None
        self._scores.append(scores)
        if sum(map(len, self._scores)) == len(self._items):
            self._search.tell(np.concatenate(self._scores))
            self._items = np.empty(0, dtype=np.int64)
            if self.on_round is not None and isinstance(self._search, OpenSearch):
                self.on_round(self._search)

    def _finish_if_done(self) -> None:
        if self._search is not None and self._search.done and not len(self._items):
            self._resolve(self._search.result())

    def _resolve(self, result: SearchResult | FloatArray | Exception) -> None:
        try:
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)
        except InvalidStateError:  # its request was cancelled meanwhile
            pass


@dataclass(frozen=True)
class _Part:
    """Pairs of one job in a batch."""

    job: Job
    search: OpenSearch | Reranking
    items: IntArray


class Scheduler:
    """Runs jobs of one scorer, in batches that they share.

    Args:
        scorer: of the indexes that are searched; no one else may search them meanwhile.
        batch_pairs: pairs scored at a time.
        wait_ms: how long the first job after a pause is held for others to share its batch; nobody else waits.
        queue: jobs taken at the same time.

    A batch is shared out evenly among the requests, however many queries or documents a request has; what some do not
    want goes to those that want more, and those for whom there was no room begin the next batch. Where the scorer fails
    on a shared batch, every job of it is tried alone, and only those that fail then fail.
    """

    def __init__(self, scorer: Scorer, *, batch_pairs: int = 256, wait_ms: float = 2.0, queue: int = 256) -> None:
        self.scorer = scorer
        self._batch_pairs, self._wait, self._queue = batch_pairs, wait_ms / 1000, queue
        self._jobs: list[Job] = []
        self._changed = threading.Condition()
        self._closing = False
        self.calls = 0
        self.busy_since: float | None = None
        self._thread = threading.Thread(target=self._run, name="crossknn-scheduler", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Jobs under way or waiting; not those that were cancelled."""
        with self._changed:
            return sum(not job.over for job in self._jobs)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def submit(self, *jobs: Job) -> None:
        """Take the jobs of one request, all or none.

        Raises:
            QueueFullError: there are too many already.
            ClosedError: it is shutting down.
        """
        with self._changed:
            if self._closing:
                raise ClosedError("the service is shutting down")
            self._jobs = [job for job in self._jobs if not job.over]
            if len(self._jobs) + len(jobs) > self._queue:
                raise QueueFullError(f"{len(self._jobs)} searches are under way, and {self._queue} is the most")
            request = object()
            for job in jobs:
                job._request = request
            self._jobs.extend(jobs)
            self._changed.notify()

    def rerank(self, query: str, documents: Sequence[str]) -> Future[FloatArray]:
        """Raw logits of a query with each of some documents, (n,) float64: as many CE calls.

        Raises:
            QueueFullError: there are too many jobs already.
            ClosedError: it is shutting down.
        """
        job = Job(lambda: Reranking(query, documents))
        self.submit(job)
        return job.future

    def close(self, timeout: float | None = None) -> None:
        """Take no more, finish what was taken, and stop; what is left after ``timeout`` seconds fails."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout)
        with self._changed:
            left = list(self._jobs)
        for job in left:
            job._resolve(ClosedError("the service was shut down before this search was done"))

    def _run(self) -> None:
        jobs: list[Job] = []
        while True:
            with self._changed:
                self._jobs = [job for job in self._jobs if not job.over]
                idle, jobs = not self._jobs, []  # those that are done would keep an index that was replaced
                while not self._jobs:
                    if self._closing:
                        return
                    self._changed.wait()
                if idle and self._wait:
                    self._changed.wait(self._wait)  # others may come with the first
                jobs = list(self._jobs)
            self.busy_since = time.perf_counter()
            try:
                self._score_a_batch(jobs)
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever it is
                for job in jobs:
                    job._resolve(error)
            self.busy_since = None

    def _score_a_batch(self, jobs: list[Job]) -> None:
        parts, next_requests = self._next_batch(jobs)
        together: dict[int, list[_Part]] = {}
        for part in parts:
            together.setdefault(id(_index_of(part.search)), []).append(part)
        for some in together.values():
            self._score(some)
        for job in jobs:
            if not job.over:
                self._guarded(job, job._finish_if_done)
        last = len(next_requests)
        with self._changed:
            self._jobs.sort(key=lambda job: next_requests.get(id(job._request), last))

    def _next_batch(self, jobs: list[Job]) -> tuple[list[_Part], dict[int, int]]:
        """Pairs in turns of the requests; and in which order those that want more begin the next batch."""
        requests: dict[int, deque[Job]] = {}
        for job in jobs:
            requests.setdefault(id(job._request), deque()).append(job)
        parts: list[_Part] = []
        room, in_turn = self._batch_pairs, deque(requests.items())
        share = max(1, room // len(requests))
        while room and in_turn:
            request, its_jobs = in_turn.popleft()
            turn = min(share, room)
            while its_jobs and turn:
                part = self._part(its_jobs[0], turn)
                if part is None:
                    its_jobs.popleft()
                    continue
                parts.append(part)
                turn, room = turn - len(part.items), room - len(part.items)
            if its_jobs:
                in_turn.append((request, its_jobs))
        return parts, {request: n for n, (request, _) in enumerate(in_turn)}

    def _part(self, job: Job, room: int) -> _Part | None:
        """Up to so many pairs of a job; None if it wants none for now."""
        taken: list[IntArray] = []
        if not job.over:
            self._guarded(job, lambda: taken.append(job._take(room)))
        if not taken or not len(taken[0]) or job._search is None:
            return None
        return _Part(job, job._search, taken[0])

    @staticmethod
    def _guarded(job: Job, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - one search's error is no other's
            job._resolve(error)

    def _score(self, parts: list[_Part]) -> None:
        """One call of the scorer, for parts that are all of searches of one index, or all of rerankings."""
        start = time.perf_counter()
        sizes = [len(part.items) for part in parts]
        self.calls += sum(sizes)
        try:
            scores = self._scores(parts, np.repeat(np.arange(len(parts)), sizes))
        except CrossKNNError as error:
            jobs = list(dict.fromkeys(part.job for part in parts))
            if len(jobs) == 1:
                jobs[0]._resolve(error)
                return
            for job in jobs:
                if not job.over:
                    self._score([part for part in parts if part.job is job])
            return
        seconds = time.perf_counter() - start
        for job in dict.fromkeys(part.job for part in parts):
            job.times["score"] = job.times.get("score", 0.0) + seconds
        for part, some in zip(parts, np.split(scores, np.cumsum(sizes)[:-1]), strict=True):
            self._guarded(part.job, lambda part=part, some=some: part.job._give(some))  # type: ignore[misc]

    def _scores(self, parts: list[_Part], rows: IntArray) -> FloatArray:
        queries = [part.search.query for part in parts]
        texts = [part.search.texts[n] for part in parts if isinstance(part.search, Reranking) for n in part.items]
        index = _index_of(parts[0].search)
        try:
            if index is None:
                return checked_scores(prepared(self.scorer, texts), queries, rows, np.arange(len(texts)))
            return index.score(queries, rows, np.concatenate([part.items for part in parts]))
        except SystemExit as error:  # from a scorer; it would end the thread, and the service with it
            raise ScorerError("the scorer asked the process to exit") from error


def _index_of(search: OpenSearch | Reranking) -> Index | None:
    """What a search is of; a reranking is of none."""
    return search.index if isinstance(search, OpenSearch) else None
