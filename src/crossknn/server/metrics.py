"""What a service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from crossknn.results import SearchResult
from crossknn.server.scheduler import Scheduler

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class Metrics:
    """Counters of one service."""

    def __init__(self, scheduler: Scheduler, *, n_items: Callable[[], int], stale: Callable[[], bool]) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "crossknn_requests", "Requests by route and status.", ["route", "status"], registry=self._registry
        )
        self.seconds = Histogram(
            "crossknn_request_seconds", "Time to answer.", ["route"], buckets=_SECONDS, registry=self._registry
        )
        self._parts = Histogram(
            "crossknn_search_part_seconds",
            "Time of a search by part; score is shared with the searches of the same batches.",
            ["part"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        Gauge("crossknn_searches", "Searches under way or waiting.", registry=self._registry).set_function(
            lambda: scheduler.waiting
        )
        self._gauge("crossknn_scorer_calls", "Pairs that the scorer was asked for.", lambda: scheduler.calls)
        self._gauge("crossknn_items", "Items of the index that is served.", n_items)
        self._gauge("crossknn_index_stale", "1 where its folder has another, or none, that cannot be served.", stale)
        scorer = scheduler.scorer
        if hasattr(scorer, "hits") and hasattr(scorer, "misses"):
            self._gauge("crossknn_cache_hits", "Pairs answered by the score cache.", lambda: scorer.hits)
            self._gauge("crossknn_cache_misses", "Pairs that the model was asked for.", lambda: scorer.misses)

    def _gauge(self, name: str, text: str, value: object) -> None:
        Gauge(name, text, registry=self._registry).set_function(value)  # type: ignore[arg-type]

    def searched(self, result: SearchResult, times: dict[str, float]) -> None:
        """Where a search's time went."""
        parts = times | {
            "fit": sum(cost.solve_seconds for cost in result.trace),
            "retrieve": sum(cost.retrieve_seconds for cost in result.trace),
        }
        for part, seconds in parts.items():
            self._parts.labels(part).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self._registry)
