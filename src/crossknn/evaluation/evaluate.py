"""Running methods against ground truth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.evaluation.ground_truth import exact_scores
from crossknn.evaluation.measures import error_reduction, paired_interval, top_k_recall
from crossknn.evaluation.origins import bucket_ends, origins
from crossknn.evaluation.replay import Replayed, System, replay
from crossknn.evaluation.report import Cell, Pair, Report, Seconds
from crossknn.evaluation.task import Judge, Judgements, RightItem
from crossknn.files import write_aside
from crossknn.fingerprints import digest_texts
from crossknn.index import Index
from crossknn.scorers import CachedScorer
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import METHODS, SearchMethod, check_searches
from crossknn.search.sizes import round_sizes

_RATE = "calls_per_second.txt"
_ORIGINS_OF_TOP = 10
"""The origins are those of the largest k measured up to here."""


def default_methods(index: Index) -> dict[str, SearchMethod | System]:
    """Retrieve-and-rerank as the baseline, AXN as in the paper and as it is by default, and ``bayes-ucb`` over a
    learned prior: those of them that can search an index."""
    if index.item_model is None:
        return {"rerank": METHODS["rerank"]}
    names = ["rerank", "axn-paper", "axn"]
    if index.item_model.noise is not None:
        names.append("bayes-ucb")
    return {name: METHODS[name] for name in names}


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured.

    Attributes:
        ks: Top-k-Recall is measured for these k.
        budgets: CE calls per query; each is a run of its own. A k above a budget is not reported there.
        methods: name to method, or to a :class:`System` over another index; the first is the baseline of the gains, and
            its first stage is the one that ranks are told by. None takes :func:`default_methods`.
        seed: of the bootstrap.
        pairs: names of methods that are compared with each other too, the better one first.
    """

    ks: Sequence[int] = (1, 10, 100)
    budgets: Sequence[int] = (50, 100, 200, 500)
    methods: Mapping[str, SearchMethod | System] | None = None
    seed: int = 0
    pairs: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if not self.ks or not self.budgets or (self.methods is not None and not self.methods):
            raise InputError("an evaluation needs at least one k, one budget and one method")
        if min(self.ks) < 1 or min(self.budgets) < 1:
            raise InputError(f"every k and budget must be at least 1, got {list(self.ks)} and {list(self.budgets)}")
        for name in (name for pair in self.pairs for name in pair):
            if self.methods is not None and name not in self.methods:
                raise InputError(f"{name!r} is to be compared, and is not among {', '.join(self.methods)}")
        if min(self.ks) > max(self.budgets):
            raise InputError(f"no k of {list(self.ks)} fits a budget of {list(self.budgets)}; recall needs k <= budget")


def evaluate(
    index: Index,
    queries: Sequence[str],
    *,
    folder: Path,
    labels: Sequence[str] | None = None,
    relevant: Sequence[Mapping[str, int]] | None = None,
    options: EvaluationOptions | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Compare methods on the same queries with the cross-encoder's exact top k.

    The ground truth is scored first, kept in ``folder`` and reused. The methods then run on its scores, so they cost no
    CE call of their own; time is the overhead measured plus calls at the rate the ground truth was scored at.

    Args:
        index: what is searched, where a method is no system of its own.
        queries: query texts, all different, none of them a train query of an index.
        folder: keeps ground truths, each in a folder named after its queries, items and scorer.
        labels: the id of the right item for each query, for task accuracy. Items with the same text count as right too.
        relevant: item id to grade for each query, for nDCG@10 and R@100 (extra ``ir``), in place of labels.
        options: what is measured.
        progress: told of the ground truth's CE calls.

    Raises:
        InputError: queries that repeat, that the index was trained on, or labels that fit no item.

    Cost: ``len(queries) * len(index)`` CE calls, less those that are in the folder.
    """
    options = options or EvaluationOptions()
    methods = default_methods(index) if options.methods is None else options.methods
    options = replace(options, methods=methods)  # which checks the names of pairs
    systems = {
        name: method if isinstance(method, System) else System(index, method) for name, method in methods.items()
    }
    _check(index, queries, labels, relevant, options, systems)
    judge = _judge(index, labels, relevant)
    exact, calls_per_second = _ground_truth(index, queries, folder, progress)
    everything = np.broadcast_to(np.arange(len(index)), exact.shape)
    exact_task = {} if judge is None else judge.measure(exact, everything)
    replayed = replay(systems, queries, exact, options.budgets)
    recall = {
        key: {k: _recall(exact, run.scored, k) for k in options.ks if k <= run.scored.shape[1]}
        for key, run in replayed.runs.items()
    }
    return Report(
        baseline=next(iter(systems)),
        n_queries=len(queries),
        n_items=len(index),
        exact_task={name: paired_interval(values, seed=options.seed) for name, values in exact_task.items()},
        calls_per_second=calls_per_second,
        cells=_cells(replayed, recall, exact, judge, exact_task, options, systems),
        context=_context(index, options, systems),
        offline={name: system.offline for name, system in systems.items() if system.offline is not None},
        pairs=_pairs(recall, options),
    )


def _pairs(recall: Mapping[tuple[str, int], Mapping[int, FloatArray]], options: EvaluationOptions) -> list[Pair]:
    found = []
    for method, other in options.pairs:
        for budget in options.budgets:
            both = [(k, values, recall[other, budget][k]) for k, values in recall[method, budget].items()]
            gain = {k: paired_interval(a, b, seed=options.seed) for k, a, b in both}
            less = {k: error_reduction(a, b, seed=options.seed) for k, a, b in both}
            found.append(Pair(method, other, budget, gain, less))
    return found


def check_asked(
    index: Index,
    queries: Sequence[str],
    labels: Sequence[str] | None,
    relevant: Sequence[Mapping[str, int]] | None,
    train_queries: Sequence[str],
) -> None:
    """Make sure that queries can be measured on.

    Raises:
        InputError: there are none, some repeat or are train queries, or what is right for them does not fit.
    """
    if not queries:
        raise InputError("there are no queries to evaluate on")
    if len(set(queries)) != len(queries):
        raise InputError("some queries stand twice; each must be measured once")
    if trained := set(queries) & set(train_queries):
        raise InputError(
            f"{len(trained)} of the queries are train queries of an index ({next(iter(trained))!r}, ...); "
            "figures on them would flatter"
        )
    if labels is not None and relevant is not None:
        raise InputError("give labels or relevant items, not both")
    for what, given in (("labels", labels), ("lists of relevant items", relevant)):
        if given is not None and len(given) != len(queries):
            raise InputError(f"there are {len(queries)} queries, but {len(given)} {what}")
    _judge(index, labels, relevant)


def _check(
    index: Index,
    queries: Sequence[str],
    labels: Sequence[str] | None,
    relevant: Sequence[Mapping[str, int]] | None,
    options: EvaluationOptions,
    systems: Mapping[str, System],
) -> None:
    learned = [query for system in systems.values() for query in system.index.train_queries]
    check_asked(index, queries, labels, relevant, learned)
    for name, system in systems.items():
        if system.index.items != index.items or system.index.item_ids != index.item_ids:
            raise InputError(f"{name} searches other items; all systems of an evaluation need the same, in one order")
        if system.index.scorer.fingerprint != index.scorer.fingerprint:
            raise InputError(
                f"{name} was built with the scorer {system.index.scorer.fingerprint}, not {index.scorer.fingerprint}"
            )
        try:
            check_searches(system.method, system.index.task(queries[:1]), min(*options.budgets, len(index)))
        except InputError as error:
            raise InputError(f"{name} does not work on its index: {error}") from error
    if min(options.ks) > len(index):
        raise InputError(f"the smallest k is {min(options.ks)}, but the index holds {len(index)} items")


def _judge(index: Index, labels: Sequence[str] | None, relevant: Sequence[Mapping[str, int]] | None) -> Judge | None:
    if labels is not None:
        return RightItem(labels, index.item_ids, index.items)
    return None if relevant is None else Judgements(relevant, index.item_ids)


def _ground_truth(
    index: Index, queries: Sequence[str], folder: Path, progress: ProgressCallback | None
) -> tuple[FloatArray, float | None]:
    """Exact scores, and the cross-encoder's calls per second when it made them; None if a cache had some of them."""
    stored: list[int] = []

    def watch(done: int, total: int) -> None:
        if not stored:
            stored.append(done)
        if progress:
            progress(done, total)

    folder = folder / digest_texts([str(index.scorer.fingerprint), *queries, *index.items])[:12]
    cached, start = _cache_hits(index), time.perf_counter()
    exact = exact_scores(queries, index.items, index.scorer, folder, progress=watch)
    seconds, calls = time.perf_counter() - start, exact.size - stored[0]
    remembered = folder / _RATE
    if calls and _cache_hits(index) == cached:  # what a cache answers, and how long it looks, says nothing of calls
        write_aside(remembered, f"{calls / seconds}\n".encode())
    try:
        return exact, float(remembered.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return exact, None


def _cache_hits(index: Index) -> int:
    """Pairs that a score cache has answered so far: they say nothing of the cross-encoder's speed."""
    return index.scorer.hits if isinstance(index.scorer, CachedScorer) else 0


def _cells(
    replayed: Replayed,
    recall: Mapping[tuple[str, int], Mapping[int, FloatArray]],
    exact: FloatArray,
    judge: Judge | None,
    exact_task: Mapping[str, FloatArray],
    options: EvaluationOptions,
    systems: Mapping[str, System],
) -> list[Cell]:
    """Measure every run, and compare it with the baseline's at the same budget."""
    n_items, seed = exact.shape[1], options.seed
    ends = bucket_ends(n_items, max((b for b in options.budgets if min(options.ks) <= b < n_items), default=n_items))
    cells = []
    for (method, budget), run in replayed.runs.items():
        measured, baseline = recall[method, budget], recall[next(iter(systems)), budget]
        k = max((k for k in measured if k <= _ORIGINS_OF_TOP), default=min(measured, default=None))
        task = {} if judge is None else judge.measure(run.scores, run.scored)
        cells.append(
            Cell(
                method=method,
                budget=budget,
                recall={k: paired_interval(values, seed=seed) for k, values in measured.items()},
                gain={k: paired_interval(values, baseline[k], seed=seed) for k, values in measured.items()},
                origins=None if k is None else origins(exact, run.scored, replayed.first_stage_ranks, k, ends),
                task={name: paired_interval(values, seed=seed) for name, values in task.items()},
                seconds=Seconds(run.first_stage_seconds, run.fit_seconds, run.retrieve_seconds),
                offline_calls=systems[method].offline_calls,
                task_below_exact={
                    name: paired_interval(exact_task[name], values, seed=seed) for name, values in task.items()
                },
                rounds=len(round_sizes(min(budget, n_items), systems[method].method.rounds)),
            )
        )
    return cells


def _recall(exact: FloatArray, scored: IntArray, k: int) -> FloatArray:
    return np.array([top_k_recall(row, found, k) for row, found in zip(exact, scored, strict=True)])


def _context(index: Index, options: EvaluationOptions, systems: Mapping[str, System]) -> dict[str, Any]:
    return {
        "crossknn": version("crossknn"),
        "scorer": str(index.scorer.fingerprint),
        "first_stage": _shared({name: system.index.first_stage.fingerprint for name, system in systems.items()}),
        "train_queries": _shared({name: len(system.index.train_queries) for name, system in systems.items()}),
        "offline_calls": _shared({name: system.offline_calls for name, system in systems.items()}),
        "methods": {name: repr(system.method) for name, system in systems.items()},
        "seed": options.seed,
    }


def _shared(values: Mapping[str, Any]) -> Any:
    """What all systems have in common as it is, and what tells them apart by system."""
    return next(iter(values.values())) if len(set(values.values())) == 1 else dict(values)
