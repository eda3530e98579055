"""Searches that share batches: the same answers, fair turns, bounded, and an end to everything."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from crossknn import AXN, FunctionScorer, Index
from crossknn.errors import InputError
from crossknn.server import Scheduler, ServerOptions
from crossknn.server.scheduler import ClosedError, Job, QueueFullError

Serve = Callable[..., Any]


class Gate:
    """A scorer that waits until it is let go, and remembers what it was asked."""

    def __init__(self, world: Any) -> None:
        self.world, self.go, self.batches = world, threading.Event(), []
        self.asked = threading.Event()

    def __call__(self, pairs: Any) -> list[float]:
        self.batches.append([query for query, _ in pairs])
        self.asked.set()
        assert self.go.wait(10)
        return [self.world.score_of(query, item) for query, item in pairs]

    def index(self) -> Index:
        scorer = FunctionScorer(self, name="gate", batch_size=10_000)
        return Index.build(self.world.items, scorer=scorer, first_stage=self.world.dense)


@pytest.fixture
def gate(world: Any) -> Iterator[Gate]:
    made = Gate(world)
    yield made
    made.go.set()


def _job(index: Index, query: str, budget: int = 20, **more: Any) -> Job:
    return Job(lambda: index.open_search(query, k=3, budget=budget), **more)


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("batch_pairs", [1, 7, 1000])
def test_whatever_the_batches_every_search_finds_what_it_finds_alone(world: Any, batch_pairs: int) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.dense)
    expected = [index.search(query, k=3, budget=10 + n) for n, query in enumerate(world.queries)]
    scheduler = Scheduler(index.scorer, batch_pairs=batch_pairs)
    jobs = [_job(index, query, 10 + n) for n, query in enumerate(world.queries)]
    for job in jobs:
        scheduler.submit(job)
    results = [job.future.result(10) for job in jobs]
    scheduler.close(5)
    assert [(r.hits, r.calls) for r in results] == [(e.hits, e.calls) for e in expected]
    assert scheduler.calls == sum(e.calls for e in expected)


def test_a_search_under_way_ends_in_its_index_when_another_is_served(gate: Gate, serve: Serve) -> None:
    index, query = gate.index(), gate.world.queries[0]
    gate.go.set()
    best = index.search(query, k=1, budget=len(index)).hits[0].id
    without = index.updated(remove=[best])
    expected = [which.search(query, k=3, budget=20) for which in (index, without)]
    gate.go.clear()
    gate.asked.clear()
    service = serve(index, ServerOptions(wait_ms=0))
    served = service.app.state.service
    before = _job(served.now.index, query)
    served.scheduler.submit(before)
    assert gate.asked.wait(5)
    served.replace(without)
    after = _job(served.now.index, query)
    served.scheduler.submit(after)  # while the first waits for its first round: the others are scored side by side
    gate.go.set()
    assert [job.future.result(10).hits for job in (before, after)] == [found.hits for found in expected]
    assert service.get(f"/items/{best}").status_code == 404
    assert service.get("/info").json()["items"] == len(index) - 1
    with pytest.raises(InputError, match="another scorer"):
        served.replace(gate.index())
    assert service.get("/info").json()["items"] == len(index) - 1


def test_rounds_of_searches_share_batches_and_none_waits_for_a_longer_one(gate: Gate) -> None:
    index = gate.index()
    scheduler = Scheduler(index.scorer, batch_pairs=12, wait_ms=0)
    first, *rest = gate.world.queries[:5]
    jobs = [Job(lambda: index.open_search(first, k=3, budget=40, method=AXN(40)))]
    scheduler.submit(*jobs)
    assert gate.asked.wait(5)
    jobs += [_job(index, query, 30) for query in rest]  # ten rounds of three
    scheduler.submit(*jobs[1:])
    done: list[str] = []
    for job, query in zip(jobs, [first, *rest], strict=True):
        job.future.add_done_callback(lambda _, query=query: done.append(query))
    gate.go.set()
    scheduler.close(10)
    assert sorted(done[:4]) == sorted(rest)
    assert done[4] == first
    together = gate.batches[1:9]
    assert min(len(batch) for batch in together) >= 10  # nearly full, though a round is three pairs
    assert min(len(set(batch)) for batch in together) >= 4
    turns = [sum(query in batch for batch in together) for query in [first, *rest]]
    assert max(turns) - min(turns) <= 2


def test_the_first_search_after_a_pause_waits_a_little_for_others(gate: Gate) -> None:
    index, (first, second, third, *_) = gate.index(), gate.world.queries
    gate.go.set()
    scheduler = Scheduler(index.scorer, wait_ms=10_000)
    jobs = [_job(index, query) for query in (first, second)]
    scheduler.submit(jobs[0])
    time.sleep(0.05)
    assert not gate.batches
    scheduler.submit(jobs[1])  # which ends the wait
    for job in jobs:
        job.future.result(5)
    assert set(gate.batches[0]) == {first, second}
    scheduler.close(5)
    short = Scheduler(index.scorer, wait_ms=20)
    alone = _job(index, third)
    short.submit(alone)
    assert alone.future.result(5).calls == 20  # no one came, and it went on
    short.close(5)


def test_a_full_queue_refuses_and_takes_all_or_none(gate: Gate) -> None:
    index = gate.index()
    scheduler = Scheduler(index.scorer, queue=3, wait_ms=0)
    taken = [_job(index, query) for query in gate.world.queries[:2]]
    scheduler.submit(*taken)
    with pytest.raises(QueueFullError, match="2 searches are under way, and 3 is the most"):
        scheduler.submit(*[_job(index, query) for query in gate.world.queries[2:4]])
    assert scheduler.waiting == 2
    gate.go.set()
    scheduler.close(5)
    assert all(job.future.result().calls == 20 for job in taken)
    with pytest.raises(ClosedError):
        scheduler.submit(_job(index, gate.world.queries[0]))
    with pytest.raises(ClosedError):
        scheduler.rerank("a", ["b"])


def test_who_is_cancelled_is_scored_no_more(gate: Gate) -> None:
    index = gate.index()
    scheduler = Scheduler(index.scorer, wait_ms=0)
    kept, dropped = (_job(index, query, 40) for query in gate.world.queries[:2])
    scheduler.submit(dropped)
    assert gate.asked.wait(5)
    scheduler.submit(kept)
    dropped.cancel()
    gate.go.set()
    assert kept.future.result(5).calls == 40
    _until(lambda: scheduler.waiting == 0)
    assert sum(batch.count(gate.world.queries[1]) for batch in gate.batches) == 4  # one round of ten
    scheduler.close(5)


def test_a_request_of_many_queries_or_texts_gets_no_more_turns_than_another(gate: Gate) -> None:
    index = gate.index()
    scheduler = Scheduler(index.scorer, batch_pairs=32, wait_ms=0)
    first, single, *many = gate.world.queries
    scheduler.submit(_job(index, first, 40))
    assert gate.asked.wait(5)
    texts = scheduler.rerank(many[0], gate.world.items * 20)  # 800 pairs
    scheduler.submit(*(_job(index, query, 40) for query in many))  # 400 pairs
    alone = _job(index, single, 40)
    scheduler.submit(alone)
    before: list[int] = []
    alone.future.add_done_callback(lambda _: before.append(sum(map(len, gate.batches))))
    gate.go.set()
    assert alone.future.result(5).calls == 40
    assert before[0] < 4 + 40 + 12 * 32  # its ten rounds did not wait for the 1,200 pairs of the others
    assert texts.result(5).tolist() == [gate.world.score_of(many[0], item) for item in gate.world.items] * 20
    assert max(map(len, gate.batches)) <= 32
    scheduler.close(5)


def test_what_is_left_of_a_list_is_dropped_when_one_of_it_fails(serve: Serve, world: Any) -> None:
    def slow(pairs: Any) -> list[float]:
        time.sleep(0.02)
        return list(world.scorer.score_pairs(pairs))

    scorer = FunctionScorer(slow, name="slow", batch_size=10_000)
    service = serve(
        Index.build(world.items, scorer=scorer, first_stage=world.dense), ServerOptions(batch_pairs=4, wait_ms=0)
    )
    assert service.post("/search", {"query": ["unknown", *world.queries], "budget": 40}).status_code == 422
    _until(lambda: service.app.state.service.scheduler.waiting == 0)
    assert len(world.calls) < 40 * len(world.queries) / 2  # all would take two seconds, and more than a hundred batches


def test_one_search_that_fails_takes_no_other_with_it(world: Any) -> None:
    bad = world.queries[2]

    def score(pairs: Any) -> list[float]:
        if any(query == bad for query, _ in pairs):
            raise RuntimeError("not this one")
        return list(world._score(pairs))

    index = Index.build(world.items, scorer=FunctionScorer(score, name="f", batch_size=1000), first_stage=world.dense)
    scheduler = Scheduler(index.scorer, wait_ms=50)
    jobs = [_job(index, query) for query in [*world.queries[:4], "unknown"]]
    scheduler.submit(*jobs)
    failed = [job.future.exception(5) is not None for job in jobs]
    assert failed == [False, False, True, False, True]
    assert scheduler.rerank(world.queries[0], world.items[:3]).result(5).tolist() == world.scores[0, :3].tolist()
    with pytest.raises(Exception, match="not this one"):
        scheduler.rerank(bad, world.items[:2]).result(5)
    scheduler.close(5)


def test_a_scorer_that_hangs_costs_a_deadline_and_readiness_not_the_service(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crossknn.server.app._STUCK_SECONDS", 0.05)
    service = serve(gate.index(), ServerOptions(deadline_seconds=0.2, queue=3, wait_ms=0))
    query = gate.world.queries[0]

    async def many() -> list[Any]:
        return await asyncio.gather(*(service.send("POST", "/search", json={"query": query}) for _ in range(5)))

    statuses = sorted(answer.status_code for answer in asyncio.run(many()))
    assert statuses == [429, 429, 504, 504, 504]
    assert service.get("/health").status_code == 200
    assert service.get("/ready").status_code == 503
    again = asyncio.run(many())  # those who were given up have left their places
    assert sorted(answer.status_code for answer in again) == [429, 429, 504, 504, 504]
    assert {answer.headers.get("retry-after") for answer in again if answer.status_code == 429} == {"1"}
    gate.go.set()
    _until(lambda: service.get("/ready").status_code == 200)
    assert service.post("/search", {"query": query}).status_code == 200


def test_a_stream_that_takes_too_long_ends_with_a_problem(serve: Serve, gate: Gate) -> None:
    service = serve(gate.index(), ServerOptions(deadline_seconds=0.1))
    told = service.post("/search/stream", {"query": gate.world.queries[0]}).text
    assert told.startswith("event: error")
    assert '"status": 504' in told


def test_max_ms_ends_a_search_between_rounds(serve: Serve, world: Any) -> None:
    service = serve(Index.build(world.items, scorer=world.scorer, first_stage=world.dense))
    (found,) = service.post("/search", {"query": world.queries[0], "budget": 20, "max_ms": 1e-6}).json()["results"]
    assert found["calls"] == 10  # the hits that are wanted, in rounds of two
    assert len(np.unique([hit["id"] for hit in found["hits"]])) == 10
