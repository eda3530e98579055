"""How long an index takes to train, counted over runs that were stopped."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crossknn.arrays import FloatArray
from crossknn.factorization import Factorization, ItemModel
from crossknn.files import write_aside
from crossknn.scores import Pairs, ScoreMatrix
from crossknn.scores.ledger import ProgressCallback


@dataclass
class Stopwatch:
    """Seconds spent inside it, on top of those before; what was finished before is not counted again."""

    seconds: float = 0.0
    running: bool = True
    _start: float = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        if self.running:
            self.seconds += time.perf_counter() - self._start

    def take_off(self, seconds: float) -> None:
        """Not count some of what was just spent."""
        if self.running:
            self.seconds = max(0.0, self.seconds - seconds)


@contextmanager
def kept_time(place: Path | None) -> Iterator[Stopwatch]:
    """Training time; with that of earlier runs whose checkpoint this one goes on from, also where it is stopped.

    Args:
        place: the file that keeps it; None keeps nothing.
    """
    earlier = json.loads(place.read_text(encoding="utf-8")) if place is not None and place.exists() else {}
    watch = Stopwatch(earlier.get("seconds", 0.0), running=not earlier.get("done", False))
    done = False
    try:
        yield watch
        done = True
    finally:
        if place is not None:
            write_aside(place, f"{json.dumps({'seconds': watch.seconds, 'done': done})}\n".encode())


@dataclass
class Timed:
    """A factorization whose fits are timed, and so is choosing a second pass' pairs after the first fit."""

    factorization: Factorization
    kept: Stopwatch = field(default_factory=Stopwatch)
    _fitted: float | None = None

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`."""
        self.factorization.check(pairs, n_items, has_vectors=has_vectors)

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`."""
        with self.kept:
            model = self.factorization.fit(scores, item_vectors, query_vectors, first_stage_scores)
        self._fitted = time.perf_counter()
        return model

    def told(self, progress: ProgressCallback) -> ProgressCallback:
        """Progress of scoring: its first word after a fit ends the choice of the second pass' pairs."""

        def tell(done: int, total: int) -> None:
            if self._fitted is not None and self.kept.running:
                self.kept.seconds += time.perf_counter() - self._fitted
            self._fitted = None
            progress(done, total)

        return tell
