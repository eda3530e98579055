"""Every system in one run: what it costs offline, and what it then finds online."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.evaluation.evaluate import EvaluationOptions, evaluate
from crossknn.evaluation.replay import Offline, System
from crossknn.evaluation.report import Report
from crossknn.evaluation.systems import DISTILLED, FIRST_STAGES, SystemName
from crossknn.factorization import Distillation, Factorization, ItemModel, MFInductive
from crossknn.files import make_folder, write_aside
from crossknn.first_stage import Dense, FirstStage, SentenceTransformersEncoder, WithVectors
from crossknn.index import BuildOptions, Index
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
        shortlist: let each query see only so many of the first stage's best; None is all.
        seed: of plans and bootstrap.
    """

    systems: Sequence[str] = DEFAULT_SYSTEMS
    ks: Sequence[int] = (1, 10, 100)
    budgets: Sequence[int] = (10, 20, 50, 100, 200, 500)
    trainable: Callable[[], Any] | None = None
    shortlist: int | None = None
    seed: int = 0
    names: Mapping[str, SystemName] = field(init=False)

    def __post_init__(self) -> None:
        if len(set(self.systems)) != len(self.systems):
            raise InputError(f"some systems stand twice in {list(self.systems)}")
        names = {name: SystemName.parse(name) for name in self.systems}
        if self.trainable is None and any(name.learner == DISTILLED for name in names.values()):
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
    lab = _Lab(data, scorer, first_stage, folder, options, progress or (lambda what: lambda done, total: None))
    systems = {name: lab.system(parsed) for name, parsed in options.names.items()}
    return evaluate(
        lab.base,
        data.queries,
        folder=folder / "exact",
        labels=data.labels,
        relevant=data.relevant,
        options=EvaluationOptions(ks=options.ks, budgets=options.budgets, methods=systems, seed=options.seed),
        progress=lab.progress("ground truth"),
    )


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
        self.base_vectors = None if self.base.item_model is None else self.base.item_model.vectors
        self._learned: dict[tuple[str | None, float | None], tuple[Index, Offline]] = {
            (None, None): (self.base, Offline(embed_seconds=self.embed_seconds))
        }

    def system(self, name: SystemName) -> System:
        """The system of a name, its index made or found."""
        key = name.learner, name.calls
        if key not in self._learned:
            self._learned[key] = self._distilled(name) if name.learner == DISTILLED else self._factorized(name)
        index, offline = self._learned[key]
        if name.first is not None and name.first in FIRST_STAGES:
            index = self._beginning_with(FIRST_STAGES[name.first](), index)
            if name.method == "rerank":
                offline = replace(offline, embed_seconds=0.0)  # it has no use for vectors
        method, size = name.search_method(), self.options.shortlist
        return System(index, method if size is None else Shortlist(method, size), replace(offline, family=name.family))

    def _factorized(self, name: SystemName) -> tuple[Index, Offline]:
        options, timed = self._build_options(name)
        index = self.base.learn(self.data.train_queries, options, progress=self.progress(_label(name)))
        assert index.train_scores is not None
        calls, seconds = len(index.train_scores.values), timed.seconds
        if isinstance(timed.factorization, MFInductive):
            seconds = self._with_earlier(name, seconds)
        return index, Offline(calls=calls, embed_seconds=self.embed_seconds, train_seconds=seconds)

    def _build_options(self, name: SystemName) -> tuple[BuildOptions, _Timed]:
        options = name.build_options(len(self.data.train_queries), len(self.data.items), self.options.seed)
        factorization = options.factorization
        if isinstance(factorization, MFInductive):
            factorization = replace(factorization, checkpoint=self._checkpoint(name))
        timed = _Timed(factorization)
        return replace(options, factorization=timed), timed

    def _distilled(self, name: SystemName) -> tuple[Index, Offline]:
        """The dual encoder itself learns: its vectors take the place of the first stage's, which still ranks first."""
        assert self.options.trainable is not None  # checked in the options
        scored = self.base.learn(
            self.data.train_queries, self._build_options(name)[0], progress=self.progress(_label(name))
        )
        assert scored.train_scores is not None
        model, start = self.options.trainable(), time.perf_counter()
        distillation = Distillation(checkpoint=self._checkpoint(name))
        steps = self.progress(f"{_label(name)}, training")
        distillation.fit(model, scored.train_queries, self.base.items, scored.train_scores, steps)
        trained = time.perf_counter()
        both = WithVectors(self.base.first_stage, Dense(SentenceTransformersEncoder(model)))
        index = Index(self.data.items, self.base.scorer, both, train_queries=scored.train_queries)
        seconds = time.perf_counter() - trained
        offline = Offline(
            calls=len(scored.train_scores.values),
            embed_seconds=self.embed_seconds,
            train_seconds=self._with_earlier(name, trained - start),
            reembed_seconds=seconds,
        )
        return index, offline

    def _beginning_with(self, first: FirstStage, index: Index) -> Index:
        """The same index, with the first round from another first stage."""
        dense = index.first_stage
        if not isinstance(dense, Dense) or index.item_model is None:
            raise InputError("another first stage goes beside a dense one, and not beside distilled vectors")
        return Index(
            self.data.items,
            index.scorer,
            WithVectors(first, dense),
            first_stage_vectors=self.base_vectors,
            item_model=index.item_model,
            train_queries=index.train_queries,
            train_scores=index.train_scores,
        )

    def _with_earlier(self, name: SystemName, seconds: float) -> float:
        """Training time, with that of earlier runs whose checkpoint this one went on from."""
        kept = self._checkpoint(name).with_suffix(".seconds")
        total = seconds + (float(kept.read_text(encoding="utf-8")) if kept.exists() else 0.0)
        write_aside(kept, f"{total}\n".encode())
        return total

    def _checkpoint(self, name: SystemName) -> Path:
        place = self.folder / "checkpoints"
        make_folder(place)
        return place / f"{_label(name)}.pt"


def _label(name: SystemName) -> str:
    return f"{name.learner}@{name.calls:g}" if name.calls is not None else f"{name.learner}"


@dataclass
class _Timed:
    """A factorization whose fit is timed."""

    factorization: Factorization
    seconds: float = 0.0

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        self.factorization.check(pairs, n_items, has_vectors=has_vectors)

    def fit(
        self, scores: ScoreMatrix, item_vectors: FloatArray | None = None, query_vectors: FloatArray | None = None
    ) -> ItemModel:
        start = time.perf_counter()
        model = self.factorization.fit(scores, item_vectors, query_vectors)
        self.seconds = time.perf_counter() - start
        return model
