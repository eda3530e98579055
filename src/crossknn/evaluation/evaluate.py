"""Running methods against ground truth."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crossknn.arrays import BoolArray, FloatArray
from crossknn.errors import InputError
from crossknn.evaluation.ground_truth import exact_scores
from crossknn.evaluation.measures import paired_interval, top_item_is_right, top_k_recall
from crossknn.evaluation.report import Cell, Report
from crossknn.index import Index
from crossknn.scorers import ReplayScorer
from crossknn.scores.ledger import ProgressCallback
from crossknn.search import AXN, MinNorm, Rerank, SearchMethod, Task, run_rounds

_QUERIES_AT_ONCE = 32


def default_methods() -> dict[str, SearchMethod]:
    """Retrieve-and-rerank as the baseline, AXN as in the paper, and as it is by default."""
    return {"rerank": Rerank(), "axn-paper": AXN(rounds=5, solver=MinNorm()), "axn": AXN()}


@dataclass(frozen=True)
class EvaluationOptions:
    """What is measured.

    Attributes:
        ks: Top-k-Recall is measured for these k.
        budgets: CE calls per query; each is a run of its own. A k above a budget is not reported there.
        methods: name to method; the first is the baseline of the gains.
        seed: of the bootstrap.
    """

    ks: Sequence[int] = (1, 10, 100)
    budgets: Sequence[int] = (50, 100, 200, 500)
    methods: Mapping[str, SearchMethod] = field(default_factory=default_methods)
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.ks or not self.budgets or not self.methods:
            raise InputError("an evaluation needs at least one k, one budget and one method")
        if min(self.ks) < 1 or min(self.budgets) < 1:
            raise InputError(f"every k and budget must be at least 1, got {list(self.ks)} and {list(self.budgets)}")
        if min(self.ks) > max(self.budgets):
            raise InputError(f"no k of {list(self.ks)} fits a budget of {list(self.budgets)}; recall needs k <= budget")


def evaluate(
    index: Index,
    queries: Sequence[str],
    *,
    folder: Path,
    labels: Sequence[str] | None = None,
    options: EvaluationOptions | None = None,
    progress: ProgressCallback | None = None,
) -> Report:
    """Compare methods on the same queries with the cross-encoder's exact top k.

    The ground truth is scored first, kept in ``folder`` and reused. The methods then run on its scores, so they cost no
    CE call of their own; time is the overhead measured plus calls at the rate the ground truth was scored at.

    Args:
        index: what is searched.
        queries: query texts, all different, none of them a train query of the index.
        folder: keeps the ground truth.
        labels: the id of the right item for each query, for task accuracy. Items with the same text count as right too.
        options: what is measured.
        progress: told of the ground truth's CE calls.

    Raises:
        InputError: queries that repeat, that the index was trained on, or labels that fit no item.

    Cost: ``len(queries) * len(index)`` CE calls, less those that are in the folder.
    """
    options = options or EvaluationOptions()
    _check(index, queries, labels, options)
    right = None if labels is None else _right_items(index, labels)
    first_call, start = [0, 0], time.perf_counter()

    def watch(done: int, total: int) -> None:
        if first_call[1] == 0:
            first_call[:] = [done, total]
        if progress:
            progress(done, total)

    exact = exact_scores(queries, index.items, index.scorer, folder, progress=watch)
    seconds, fresh = time.perf_counter() - start, exact.size - first_call[0]
    measured = {
        (name, budget): _measure(index, method, queries, exact, right, budget, options)
        for budget in options.budgets
        for name, method in options.methods.items()
    }
    baseline = next(iter(options.methods))
    cells = [
        _cell(name, budget, found, measured[baseline, budget], options) for (name, budget), found in measured.items()
    ]
    exact_right = None
    if right is not None:
        everything = np.arange(len(index))
        top = [top_item_is_right(row, everything, mask) for row, mask in zip(exact, right, strict=True)]
        exact_right = paired_interval(np.array(top), seed=options.seed)
    return Report(
        baseline=baseline,
        n_queries=len(queries),
        n_items=len(index),
        exact_accuracy=exact_right,
        calls_per_second=fresh / seconds if fresh else None,
        cells=cells,
        context=_context(index, options),
    )


def _check(index: Index, queries: Sequence[str], labels: Sequence[str] | None, options: EvaluationOptions) -> None:
    if not queries:
        raise InputError("there are no queries to evaluate on")
    if len(set(queries)) != len(queries):
        raise InputError("some queries stand twice; each must be measured once")
    if trained := set(queries) & set(index.train_queries):
        raise InputError(
            f"{len(trained)} of the queries are train queries of the index ({next(iter(trained))!r}, ...); "
            "figures on them would flatter"
        )
    if labels is not None and len(labels) != len(queries):
        raise InputError(f"there are {len(queries)} queries, but {len(labels)} labels")
    for name, method in options.methods.items():
        if isinstance(method, AXN) and method.rounds > 1 and index.item_model is None:
            raise InputError(
                f"{name} needs item vectors; build with train queries or a dense first stage, or leave it out"
            )
        if isinstance(method, AXN) and method.mixing > 0 and index.task([queries[0]]).query_vectors is None:
            raise InputError(f"{name} mixes in query vectors, which need a dense first stage; set mixing=0")
    if min(options.ks) > len(index):
        raise InputError(f"the smallest k is {min(options.ks)}, but the index holds {len(index)} items")


def _right_items(index: Index, labels: Sequence[str]) -> list[BoolArray]:
    position = {item_id: n for n, item_id in enumerate(index.item_ids)}
    missing = next((label for label in labels if label not in position), None)
    if missing is not None:
        raise InputError(f"the label {missing!r} is no item of the index")
    texts = np.array(index.items, dtype=object)
    return [np.asarray(texts == index.items[position[label]], dtype=bool) for label in labels]


@dataclass(frozen=True)
class _Found:
    """Per query: recall for each k, and whether the best item is right; and the overhead in seconds per query."""

    recall: dict[int, FloatArray]
    right: FloatArray | None
    overhead_seconds: float


def _measure(
    index: Index,
    method: SearchMethod,
    queries: Sequence[str],
    exact: FloatArray,
    right: list[BoolArray] | None,
    budget: int,
    options: EvaluationOptions,
) -> _Found:
    replay = ReplayScorer(exact, queries, index.items)
    ks = [k for k in options.ks if k <= min(budget, len(index))]
    recall: dict[int, list[float]] = {k: [] for k in ks}
    top_right: list[float] = []
    start = time.perf_counter()
    runs = []
    for first in range(0, len(queries), _QUERIES_AT_ONCE):
        some = queries[first : first + _QUERIES_AT_ONCE]
        task = index.task(some)
        replayed = Task(some, replay, task.first_stage_scores, task.item_model, task.query_vectors)
        runs.append(run_rounds(method, replayed, budget))
    overhead = (time.perf_counter() - start) / len(queries)
    found = [(i, s) for run in runs for i, s in zip(run.indices, run.scores, strict=True)]
    for row, (indices, scores) in enumerate(found):
        for k in ks:
            recall[k].append(top_k_recall(exact[row], indices, k))
        if right is not None:
            top_right.append(top_item_is_right(scores, indices, right[row]))
    return _Found(
        {k: np.array(values) for k, values in recall.items()},
        None if right is None else np.array(top_right),
        overhead,
    )


def _cell(name: str, budget: int, found: _Found, baseline: _Found, options: EvaluationOptions) -> Cell:
    return Cell(
        method=name,
        budget=budget,
        recall={k: paired_interval(v, seed=options.seed) for k, v in found.recall.items()},
        gain={k: paired_interval(v, baseline.recall[k], seed=options.seed) for k, v in found.recall.items()},
        accuracy=None if found.right is None else paired_interval(found.right, seed=options.seed),
        overhead_seconds=found.overhead_seconds,
    )


def _context(index: Index, options: EvaluationOptions) -> dict[str, Any]:
    return {
        "scorer": str(index.scorer.fingerprint),
        "train_queries": len(index.train_queries),
        "offline_calls": 0 if index.train_scores is None else len(index.train_scores.values),
        "methods": {name: repr(method) for name, method in options.methods.items()},
        "seed": options.seed,
    }
