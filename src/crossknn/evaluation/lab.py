"""Where the indexes of a benchmark are made, and what each cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossknn.errors import InputError
from crossknn.evaluation.replay import Offline, System
from crossknn.evaluation.systems import DISTILLED, FIRST_STAGES, LEARNERS, OVER, VECTORS, SystemName
from crossknn.evaluation.timing import Timed, kept_time
from crossknn.factorization import Factorization, MFInductive
from crossknn.factorization.item_model import GatedMLP
from crossknn.files import make_folder
from crossknn.fingerprints import digest_texts
from crossknn.first_stage import (
    Dense,
    FirstStage,
    Hybrid,
    LateInteraction,
    SentenceTransformersEncoder,
    WithStates,
    WithVectors,
    calls_to_prepare,
)
from crossknn.first_stage.beside import of_dense
from crossknn.index import Index
from crossknn.learning import BuildOptions
from crossknn.scorers import Scorer
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import Shortlist

if TYPE_CHECKING:
    from crossknn.evaluation.benchmark import BenchmarkData, BenchmarkOptions


class Lab:
    """Makes indexes, and remembers those that it made."""

    def __init__(
        self,
        data: BenchmarkData,
        scorer: Scorer,
        first_stage: FirstStage,
        folder: Path,
        options: BenchmarkOptions,
        progress: Callable[[str], ProgressCallback],
    ) -> None:
        self.data, self.folder, self.options, self.progress = data, folder, options, progress
        for name in options.names.values():  # before anything is paid for
            if name.learner is not None:
                name.build_options(len(data.train_queries), len(data.items), options.seed)
        start = time.perf_counter()
        self.base = Index.build(data.items, scorer=scorer, first_stage=first_stage)
        self.embed_seconds = time.perf_counter() - start
        beside = first_stage.dense if isinstance(first_stage, WithVectors) else first_stage
        self.dense = beside if isinstance(beside, Dense) else None
        self.base_vectors = self.base.first_stage_vectors
        for text, name in options.names.items():
            self._check(text, name)
        start = time.perf_counter()
        if self.dense is not None and any(name.learner for name in options.names.values()):
            for first in range(0, len(data.train_queries), 64):
                self.base.task(data.train_queries[first : first + 64])
        self.train_query_seconds = time.perf_counter() - start
        self._learned: dict[tuple[str | float | None, ...], tuple[Index, Offline]] = {}
        self._bases: dict[str | None, tuple[Index, float]] = {None: (self.base, self.embed_seconds)}

    def _check(self, text: str, name: SystemName) -> None:
        """Refuse what could not be run, before a call is paid for."""
        beside = name.first in (*FIRST_STAGES, *OVER, DISTILLED) and not name.alone
        by_query = name.method.startswith("tour") or name.first == VECTORS
        by_query |= name.method == "rerank" and name.learner is not None and name.first is None
        if self.dense is None and (by_query or beside or (name.learner and LEARNERS[name.learner].needs_vectors)):
            raise InputError(
                f"{text} needs the vectors of a dense first stage, and {self.base.first_stage.fingerprint} has none"
            )
        if name.first in OVER and isinstance(self.dense, Hybrid | WithStates):
            raise InputError(f"{text}: the first stage has vectors beside already; leave out /{name.first}")
        if name.first is not None and name.first in OVER and self.dense is not None:
            OVER[name.first](self.dense.encoder, None, self.base.scorer)
        if _is_late(self.base.first_stage) and (name.first is not None or name.fine_tunes):
            raise InputError(f"{text}: the first stage is late interaction already; give the dual encoder alone")
        if self.base_vectors is None and name.learner is None and name.method != "rerank":
            raise InputError(f"{text} needs item vectors; give it a learner, or a dense first stage")

    def system(self, name: SystemName) -> System:
        """The system of a name, its index made or found."""
        index, offline = self._made(name)
        start = time.perf_counter()
        if name.alone:
            index = Index(index.prepared.over(FIRST_STAGES[name.first or "random"]()), learned=index.learned)
            offline = replace(offline, embed_seconds=time.perf_counter() - start)
        elif name.first is not None and name.first in FIRST_STAGES:
            index = self._beginning_with(FIRST_STAGES[name.first](), index)
            offline = replace(offline, embed_seconds=offline.embed_seconds + time.perf_counter() - start)
        elif name.first == DISTILLED:
            index, offline = self._beginning_with_distilled(name, index, offline)
        method, size = name.search_method(), self.options.shortlist
        return System(index, method if size is None else Shortlist(method, size), replace(offline, family=name.family))

    def _made(self, name: SystemName) -> tuple[Index, Offline]:
        """The index of a name's learner and calls, and what it cost; made once."""
        if name.learner is None:
            base, embed_seconds = self._base(name)
            read = calls_to_prepare(base.first_stage, len(base))
            return base, Offline(calls=read, embed_seconds=embed_seconds, items_read=read)
        key = name.learner, name.calls, name.queries, name.over
        if key not in self._learned:
            make = self._factorized if LEARNERS[name.learner].fine_tuning is None else self._distilled
            self._learned[key] = make(name)
        return self._learned[key]

    def _base(self, name: SystemName) -> tuple[Index, float]:
        """The index that has learned nothing yet, and the seconds that its items' vectors took."""
        over = name.over
        if over not in self._bases:
            assert over is not None
            assert self.dense is not None  # as checked before anything was paid
            start = time.perf_counter()
            index = self.base.with_first_stage(OVER[over](self.dense.encoder, self.base_vectors, self.base.scorer))
            self._bases[over] = index, self.embed_seconds + time.perf_counter() - start
        return self._bases[over]

    def _factorized(self, name: SystemName) -> tuple[Index, Offline]:
        options, timed = self._build_options(name)
        with kept_time(self._time_file(name) if isinstance(timed.factorization, MFInductive) else None) as kept:
            timed.kept = kept
            told = timed.told(self.progress(name.label))
            base, embed_seconds = self._base(name)
            index = base.learn(self.data.train_queries, options, progress=told)
            reembed_seconds = self._reembed_seconds(index)
            kept.take_off(reembed_seconds)
        return index, self._cost(index, embed_seconds, kept.seconds, reembed_seconds)

    def _cost(self, index: Index, embed_seconds: float, train_seconds: float, reembed_seconds: float) -> Offline:
        assert index.train_scores is not None
        read = calls_to_prepare(index.first_stage, len(index))
        return Offline(
            calls=len(index.train_scores.values) + read,
            items_read=read,
            embed_seconds=embed_seconds + self.train_query_seconds,
            train_seconds=train_seconds,
            reembed_seconds=reembed_seconds,
        )

    def _reembed_seconds(self, index: Index) -> float:
        """What of a fit was taking all items through a learned network."""
        vectors = index.first_stage_vectors
        if index.item_model is None or not isinstance(index.item_model.item_map, GatedMLP) or vectors is None:
            return 0.0
        start = time.perf_counter()
        index.item_model.place(vectors)
        return time.perf_counter() - start

    def _build_options(self, name: SystemName) -> tuple[BuildOptions, Timed]:
        options = name.build_options(len(self.data.train_queries), len(self.data.items), self.options.seed)
        factorization = options.factorization
        assert factorization is not None  # a name says how it learns
        if isinstance(factorization, MFInductive):
            factorization = replace(factorization, checkpoint=self._checkpoint(name))
        timed = Timed(factorization)
        return replace(options, factorization=timed), timed

    def _distilled(self, name: SystemName) -> tuple[Index, Offline]:
        """The dual encoder itself learns."""
        assert name.learner is not None
        fine_tuning = LEARNERS[name.learner].fine_tuning
        assert self.options.trainable is not None  # checked in the options
        assert fine_tuning is not None
        options, timed = self._build_options(name)
        model, label = self.options.trainable(), name.label
        with kept_time(self._time_file(name)) as kept:
            timed.kept = kept
            scored = self.base.learn(self.data.train_queries, options, progress=timed.told(self.progress(label)))
            assert scored.train_scores is not None
            distillation = replace(fine_tuning, checkpoint=self._checkpoint(name))
            steps = self.progress(f"{label}, training")
            with kept:
                distillation.fit(model, scored.train_queries, self.base.items, scored.train_scores, steps)
            index, reembed_seconds = over_fine_tuned(scored, model, timed)
        return index, self._cost(index, self.embed_seconds, kept.seconds, reembed_seconds)

    def _beginning_with(self, first: FirstStage, index: Index) -> Index:
        """The same index, with the first round from another first stage."""
        dense = index.first_stage.dense if isinstance(index.first_stage, WithVectors) else self.dense
        assert dense is not None  # as checked before anything was paid
        kept = of_dense((self.base if dense is self.dense else index).prepared.kept)
        return Index(index.prepared.over(WithVectors(first, dense), kept), learned=index.learned)

    def _beginning_with_distilled(self, name: SystemName, index: Index, offline: Offline) -> tuple[Index, Offline]:
        """The same index, with the first round from a dual encoder that was fine-tuned on as many calls."""
        other, cost = self._made(replace(name, learner=DISTILLED, first=None))
        assert isinstance(other.first_stage, WithVectors)
        cells = [scores.cells for scores in (index.train_scores, other.train_scores) if scores is not None]
        offline = replace(
            offline,
            calls=len(np.unique(np.concatenate(cells))),
            train_seconds=offline.train_seconds + cost.train_seconds,
            reembed_seconds=offline.reembed_seconds + cost.reembed_seconds,
        )
        return self._beginning_with(other.first_stage.dense, index), offline

    def _checkpoint(self, name: SystemName) -> Path:
        models = str(self.base.scorer.fingerprint), self.base.first_stage.fingerprint
        told = (*models, str(self.options.seed), *self.data.train_queries, *self.data.items.values())
        place = self.folder / "checkpoints" / digest_texts(told)[:12]
        make_folder(place)
        return place / f"{name.label}.pt"

    def _time_file(self, name: SystemName) -> Path:
        return self._checkpoint(name).with_suffix(".seconds")


def over_fine_tuned(scored: Index, model: Any, factorization: Factorization) -> tuple[Index, float]:
    """An index in a fine-tuned dual encoder's vectors; what ranked first still does. And the seconds of embedding.

    Args:
        scored: an index with train scores.
        model: a ``sentence_transformers.SentenceTransformer`` that learned from them.
        factorization: starts from its vectors. ``MFTransductive(sweeps=0)`` leaves them as they are, and normalises
            scores to their inner products (appendix A.4).
    """
    encoder = SentenceTransformersEncoder(model)
    start = time.perf_counter()
    dense = Dense(encoder, Dense(encoder).prepare(scored.items).item_vectors)
    seconds = time.perf_counter() - start
    return scored.with_first_stage(WithVectors(scored.first_stage, dense), factorization), seconds


def _is_late(first_stage: FirstStage) -> bool:
    """Whether late interaction ranks the first items."""
    if isinstance(first_stage, WithVectors):
        return _is_late(first_stage.first)
    return isinstance(first_stage, LateInteraction)
