"""Every system in one run: what it costs offline, and what it then finds online."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from crossknn.errors import InputError
from crossknn.evaluation.evaluate import EvaluationOptions, check_asked, evaluate
from crossknn.evaluation.lab import Lab
from crossknn.evaluation.report import Report
from crossknn.evaluation.systems import VECTORS, SystemName
from crossknn.first_stage import FirstStage
from crossknn.scorers import Scorer
from crossknn.scores.ledger import ProgressCallback

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
        if self.trainable is None and any(name.fine_tunes for name in names.values()):
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
    lab = Lab(data, scorer, first_stage, folder, options, progress or (lambda what: lambda done, total: None))
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
