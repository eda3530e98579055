"""Every system in one run: what it costs offline, and what it then finds online."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.evaluation.evaluate import EvaluationOptions, check_asked, evaluate
from crossknn.evaluation.replay import Offline, System
from crossknn.evaluation.report import Report
from crossknn.evaluation.systems import DISTILLED, FIRST_STAGES, LATE, LEARNERS, OVER, VECTORS, SystemName
from crossknn.factorization import Factorization, ItemModel, MFInductive
from crossknn.factorization.item_model import GatedMLP
from crossknn.files import make_folder, write_aside
from crossknn.fingerprints import digest_texts
from crossknn.first_stage import (
    Dense,
    FirstStage,
    Hybrid,
    SentenceTransformersEncoder,
    WithStates,
    WithVectors,
    calls_to_prepare,
)
from crossknn.first_stage.beside import of_dense
from crossknn.index import Index
from crossknn.learning import BuildOptions
from crossknn.scorers import Scorer
from crossknn.scores import Pairs, ScoreMatrix
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import Shortlist

DEFAULT_SYSTEMS = (
    "rerank",
    "rerank/bm25",
    "tour-ce",
    "tour-mse",
    "axn-paper",
    "axn",
    "axn:mf@2",
    "axn:mf@10",
    "axn-paper:mf@10",
    "anncur:cur@10",
    "adacur:cur@2",
    "adacur:cur@10",
)
"""The paper's systems that need no torch, those that learn at equal calls. The first is the baseline."""


@dataclass(frozen=True)
class BenchmarkData:
    """What a benchmark runs on.

    Attributes:
        items: id to text.
        train_queries: what the indexes learn from.
        queries: what is measured.
        labels: id of the right item for each of them, for task accuracy; None has no accuracy.
        relevant: item id to grade for each of them, for nDCG@10 and R@100, in place of labels.
    """

    items: Mapping[str, str]
    train_queries: Sequence[str]
    queries: Sequence[str]
    labels: Sequence[str] | None = None
    relevant: Sequence[Mapping[str, int]] | None = None


@dataclass(frozen=True)
class BenchmarkOptions:
    """What is compared, and where.

    Attributes:
        systems: names as :class:`~crossknn.evaluation.systems.SystemName` reads them; the first is the baseline.
        ks, budgets: as in :class:`~crossknn.evaluation.EvaluationOptions`.
        trainable: makes the sentence-transformers model that ``distilled`` systems fine-tune, a new one each time.
        pairs: names of systems that are compared with each other; besides, each is with reranking by the same first
            stage or the same learned vectors, where that is among the systems.
        shortlist: let each query see only so many of the first stage's best; None is all.
        seed: of plans and bootstrap.
    """

    systems: Sequence[str] = DEFAULT_SYSTEMS
    ks: Sequence[int] = (1, 10, 100)
    budgets: Sequence[int] = (10, 20, 50, 100, 200, 500)
    pairs: Sequence[tuple[str, str]] = ()
    trainable: Callable[[], Any] | None = None
    shortlist: int | None = None
    seed: int = 0
    names: Mapping[str, SystemName] = field(init=False)

    def __post_init__(self) -> None:
        if len(set(self.systems)) != len(self.systems):
            raise InputError(f"some systems stand twice in {list(self.systems)}")
        names = {name: SystemName.parse(name) for name in self.systems}
        if self.trainable is None and any(_fine_tunes(name) for name in names.values()):
            raise InputError("distilled systems fine-tune the first stage; it must be a sentence-transformers model")
        object.__setattr__(self, "names", names)


def benchmark(
    data: BenchmarkData,
    scorer: Scorer,
    first_stage: FirstStage,
    *,
    folder: Path,
    options: BenchmarkOptions | None = None,
    progress: Callable[[str], ProgressCallback] | None = None,
) -> Report:
    """Build every system's index, then compare all of them with the cross-encoder's exact top k.

    Systems that learn the same way share one index. Give a :class:`~crossknn.CachedScorer`: a run that was stopped then
    pays for no pair twice, and the systems share what they score.

    Args:
        data: items, train queries and measured queries.
        scorer: the cross-encoder.
        first_stage: a dense one, unless no system needs vectors.
        folder: keeps the ground truth and the checkpoints of training.
        options: what is compared.
        progress: told of CE calls, by what they are for.

    Raises:
        InputError: systems that do not fit the data or the first stage.

    Cost: each way of learning its own calls, and ``len(queries) * len(items)`` for the ground truth, less those that a
    cache or the folder has.
    """
    options = options or BenchmarkOptions()
    budgets = sorted({min(budget, len(data.items)) for budget in options.budgets})  # more buys nothing
    measured = EvaluationOptions(
        ks=options.ks,
        budgets=budgets,
        methods={text: name.search_method() for text, name in options.names.items()},
        seed=options.seed,
        pairs=_compared(options),
    )
    lab = _Lab(data, scorer, first_stage, folder, options, progress or (lambda what: lambda done, total: None))
    check_asked(lab.base, data.queries, data.labels, data.relevant, data.train_queries)
    systems = {name: lab.system(parsed) for name, parsed in options.names.items()}
    return evaluate(
        lab.base,
        data.queries,
        folder=folder / "exact",
        labels=data.labels,
        relevant=data.relevant,
        options=replace(measured, methods=systems),
        progress=lab.progress("ground truth"),
    )


def _compared(options: BenchmarkOptions) -> list[tuple[str, str]]:
    """The pairs asked for, and every system with its own reranking."""

    def vectors_of(name: SystemName) -> tuple[str | float | None, ...]:
        return None if name.first == VECTORS else name.first, name.learner, name.calls, name.queries

    reranks = {vectors_of(name): text for text, name in options.names.items() if name.method == "rerank"}
    found = list(options.pairs)
    for text, name in options.names.items():
        other = reranks.get(vectors_of(name))
        if name.method != "rerank" and other is not None:
            found.append((text, other))
    return list(dict.fromkeys(found))


class _Lab:
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
        beside = name.first in (*FIRST_STAGES, *OVER, DISTILLED) and not _alone(name)
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
        if self.base.first_stage.fingerprint.startswith(f"{LATE}:") and (name.first is not None or _fine_tunes(name)):
            raise InputError(f"{text}: the first stage is late interaction already; give the dual encoder alone")
        if self.base_vectors is None and name.learner is None and name.method != "rerank":
            raise InputError(f"{text} needs item vectors; give it a learner, or a dense first stage")

    def system(self, name: SystemName) -> System:
        """The system of a name, its index made or found."""
        index, offline = self._made(name)
        start = time.perf_counter()
        if _alone(name):
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
        key = name.learner, name.calls, name.queries, _over(name)
        if key not in self._learned:
            make = self._factorized if LEARNERS[name.learner].fine_tuning is None else self._distilled
            self._learned[key] = make(name)
        return self._learned[key]

    def _base(self, name: SystemName) -> tuple[Index, float]:
        """The index that has learned nothing yet, and the seconds that its items' vectors took."""
        over = _over(name)
        if over not in self._bases:
            assert over is not None
            assert self.dense is not None  # as checked before anything was paid
            start = time.perf_counter()
            index = self.base.with_first_stage(OVER[over](self.dense.encoder, self.base_vectors, self.base.scorer))
            self._bases[over] = index, self.embed_seconds + time.perf_counter() - start
        return self._bases[over]

    def _factorized(self, name: SystemName) -> tuple[Index, Offline]:
        options, timed = self._build_options(name)
        with self._kept_time(name, isinstance(timed.factorization, MFInductive)) as kept:
            timed.kept = kept
            told = timed.told(self.progress(_label(name)))
            base, embed_seconds = self._base(name)
            index = base.learn(self._train_queries(name), options, progress=told)
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

    def _train_queries(self, name: SystemName) -> Sequence[str]:
        return self.data.train_queries[: name.queries]

    def _build_options(self, name: SystemName) -> tuple[BuildOptions, _Timed]:
        options = name.build_options(len(self.data.train_queries), len(self.data.items), self.options.seed)
        factorization = options.factorization
        assert factorization is not None  # a name says how it learns
        if isinstance(factorization, MFInductive):
            factorization = replace(factorization, checkpoint=self._checkpoint(name))
        timed = _Timed(factorization)
        return replace(options, factorization=timed), timed

    def _distilled(self, name: SystemName) -> tuple[Index, Offline]:
        """The dual encoder itself learns."""
        assert name.learner is not None
        fine_tuning = LEARNERS[name.learner].fine_tuning
        assert self.options.trainable is not None  # checked in the options
        assert fine_tuning is not None
        options, timed = self._build_options(name)
        model, label = self.options.trainable(), _label(name)
        with self._kept_time(name, True) as kept:
            timed.kept = kept
            scored = self.base.learn(self._train_queries(name), options, progress=timed.told(self.progress(label)))
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

    @contextmanager
    def _kept_time(self, name: SystemName, has_checkpoint: bool) -> Iterator[_Stopwatch]:
        """Training time; with that of earlier runs whose checkpoint this one goes on from, also where it is stopped."""
        place = self._checkpoint(name).with_suffix(".seconds") if has_checkpoint else None
        earlier = json.loads(place.read_text(encoding="utf-8")) if place is not None and place.exists() else {}
        watch = _Stopwatch(earlier.get("seconds", 0.0), running=not earlier.get("done", False))
        done = False
        try:
            yield watch
            done = True
        finally:
            if place is not None:
                write_aside(place, f"{json.dumps({'seconds': watch.seconds, 'done': done})}\n".encode())

    def _checkpoint(self, name: SystemName) -> Path:
        models = str(self.base.scorer.fingerprint), self.base.first_stage.fingerprint
        told = (*models, str(self.options.seed), *self.data.train_queries, *self.data.items.values())
        place = self.folder / "checkpoints" / digest_texts(told)[:12]
        make_folder(place)
        return place / f"{_label(name)}.pt"


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


def _fine_tunes(name: SystemName) -> bool:
    """Whether the dual encoder has to learn for it."""
    return name.first == DISTILLED or (name.learner is not None and LEARNERS[name.learner].fine_tuning is not None)


def _alone(name: SystemName) -> bool:
    """Whether it has no use for vectors of the first stage, and pays for none."""
    reranks = name.method == "rerank" and name.first in FIRST_STAGES and name.learner is None
    return reranks or name.method == "anncur"


def _over(name: SystemName) -> str | None:
    """What its index is over from the start, if not the first stage as it is."""
    return name.first if name.first in OVER else None


def _label(name: SystemName) -> str:
    calls, queries = name.calls, name.queries
    return (
        ("" if _over(name) is None else f"{name.first}-")
        + f"{name.learner}"
        + (f"@{calls:g}" if calls is not None else "")
        + (f"x{queries}" if queries else "")
    )


@dataclass
class _Stopwatch:
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


@dataclass
class _Timed:
    """A factorization whose fits are timed, and so is choosing a second pass' pairs after the first fit."""

    factorization: Factorization
    kept: _Stopwatch = field(default_factory=_Stopwatch)
    _fitted: float | None = None

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        self.factorization.check(pairs, n_items, has_vectors=has_vectors)

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
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
