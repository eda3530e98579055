"""What an index learns from train queries: which pairs are scored, in two passes, and the item model made of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from crossknn import storage
from crossknn.arrays import FloatArray
from crossknn.errors import BudgetError, InputError
from crossknn.factorization import Factorization, ItemModel, default_factorization
from crossknn.first_stage.base import PairFirstStage
from crossknn.first_stage.beside import BoundWithVectors
from crossknn.prepared import PreparedItems
from crossknn.scores import Pairs, PerQuery, Plan, ScoreMatrix, collect_scores
from crossknn.scores.ledger import ProgressCallback
from crossknn.scores.representatives import representatives
from crossknn.search import METHODS, Task
from crossknn.search.refinement import next_pairs

_SECOND_PASS = 50
_COMPARED = 4_000
"""Train queries of which those are chosen that stand for the others: of more, so many drawn at random."""

_PLANNED_AT_ONCE = 2**22
"""First-stage scores in memory while pairs are planned (16 MB), though no fewer than eight queries'."""


@dataclass(frozen=True)
class BuildOptions:
    """How an index is learned from train queries.

    Attributes:
        plan: which (train query, item) pairs are scored.
        factorization: how item vectors are made of the scores; None is
            :func:`~crossknn.factorization.default_factorization`.
        refine: pairs per train query that are scored in a second pass: those of which its search would expect most,
            with item vectors learned from the first (:mod:`crossknn.search.refinement`). None is 50 where the plan is
            the one that is here by default, so that a train query costs 100 calls, and 0 (no second pass) beside
            another.
        max_calls: cap on CE calls. What it pays for is spent on as many train queries as have their pairs in both
            passes: over a dense first stage on those that stand for the others best
            (:func:`~crossknn.scores.representatives.representatives`), else on the first ones. With
            :class:`~crossknn.PerItem`, of which more queries make no more calls, the last pairs are given up.
        shard_size: fewest pairs scored between two writes to disk; a crash loses these, or up to 64 times as many of a
            scorer that takes less than half a second for them.
        seed: of the plan's random part.
    """

    plan: Plan = field(default_factory=PerQuery)
    factorization: Factorization | None = None
    refine: int | None = None
    max_calls: int | None = None
    shard_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("max_calls", 1), ("refine", 0), ("shard_size", 1), ("seed", 0)):
            value = getattr(self, name)
            whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
            if whole and name == "max_calls" and value < least:
                raise BudgetError(f"max_calls must be at least 1, got {value}; to score nothing, give no queries")
            if value is not None and not (whole and value >= least):
                raise InputError(f"{name} must be a whole number of at least {least}, got {value!r}")

    @property
    def second_pass(self) -> int:
        """Pairs per train query of the second pass."""
        if self.refine is not None:
            return self.refine
        return _SECOND_PASS if self.plan == PerQuery() else 0

    def price(self, n_queries: int, n_items: int) -> int:
        """CE calls that building would spend on pairs; :class:`~crossknn.WithStates` reads the items beside.

        With a second pass after :class:`~crossknn.PerItem` at most: how many of the train queries that plan scores is
        left to chance.
        """
        if not n_queries:
            return 0
        calls = sum(self._prices(n_queries, n_items))
        return calls if self.max_calls is None else min(calls, self.max_calls)

    def first_pass_price(self, n_queries: int, n_items: int) -> int:
        """Those of them that the plan spends: under a cap, its share for as many train queries as both passes pay."""
        if not n_queries:
            return 0
        first, second = self._prices(n_queries, n_items)
        if self.max_calls is None:
            return first
        each = first / self.plan.n_scored(n_queries, n_items)
        kept = math.ceil(self.max_calls / (each * (first + second) / first))
        return min(first, self.max_calls, round(kept * each))

    def n_paid(self, n_queries: int, n_items: int) -> int:
        """Train queries that the cap pays for, the last one perhaps in part; all where that is no matter of queries."""
        if self.max_calls is None or not n_queries:
            return n_queries
        each = sum(self._prices(1, n_items))
        paid = min(n_queries, math.ceil(self.max_calls / each))
        fewer = self.plan.n_calls(paid, n_items) < self.plan.n_calls(n_queries, n_items)
        return paid if fewer and self.plan.n_scored(n_queries, n_items) == n_queries else n_queries

    def _prices(self, n_queries: int, n_items: int) -> tuple[int, int]:
        """Of both passes, with no cap."""
        first, scored = self.plan.n_calls(n_queries, n_items), self.plan.n_scored(n_queries, n_items)
        return first, min(self.second_pass * scored, scored * n_items - first)


@dataclass(frozen=True)
class Learned:
    """What was learned.

    Attributes:
        queries: the train queries that it was learned from.
        scores: (n_queries, n_items) what was observed.
        item_model: made of them.
    """

    queries: list[str]
    scores: ScoreMatrix
    item_model: ItemModel


def learn(
    items: PreparedItems,
    queries: list[str],
    options: BuildOptions,
    folder: Path | None,
    progress: ProgressCallback | None,
) -> Learned:
    """Score pairs of train queries as the plan says, learn from them, and again after a second pass if there is one.

    Args:
        items: made ready.
        queries: train queries, no two alike.
        options: plan, factorization, cap on CE calls.
        folder: the ledger of scores, to go on from; None keeps it aside while it is needed.
        progress: told of the CE calls done and in all.

    Raises and cost: as :meth:`crossknn.Index.build`.
    """
    rng = np.random.default_rng(options.seed)
    queries, vectors = _paid(items, queries, options.n_paid(len(queries), len(items)), rng)
    rows = max(8, _PLANNED_AT_ONCE // len(items))
    parts = (slice(start, start + rows) for start in range(0, len(queries), rows))
    blocks = (items.first_stage_scores(queries[p], None if vectors is None else vectors[p]) for p in parts)
    pairs = options.plan.pairs(blocks, (len(queries), len(items)), rng)
    if options.max_calls is not None:
        pairs = pairs.capped(options.first_pass_price(len(queries), len(items)))
    factorization = chosen(options.factorization, pairs, items)
    with tempfile.TemporaryDirectory() as scratch:
        ledger = folder or Path(scratch) / storage.COLLECTING
        scores = _scored(items, queries, pairs, ledger, options, progress)
        model = fitted(items, queries, scores, factorization, vectors)
        if options.second_pass:
            pairs = _next(items, queries, scores, model, options, vectors)
            progress = progress and _beyond(progress, len(scores.values))
            more = _scored(items, queries, pairs, ledger / storage.REFINED, options, progress)
            scores = scores.with_more(more)
            model = fitted(items, queries, scores, factorization, vectors)
    return Learned(queries, scores, model)


def _paid(
    items: PreparedItems, queries: list[str], n: int, rng: np.random.Generator
) -> tuple[list[str], FloatArray | None]:
    """So many of the train queries, and their vectors: those that stand for the others best, if there are vectors."""
    if n < len(queries) and items.vectors is not None:
        if len(queries) > max(n, _COMPARED):
            queries = [queries[at] for at in np.sort(rng.choice(len(queries), max(n, _COMPARED), replace=False))]
        queries = [queries[at] for at in representatives(items.meanings(queries), n)]
    return queries, items.embed_queries(queries)


def chosen(factorization: Factorization | None, pairs: Pairs, items: PreparedItems) -> Factorization:
    """The one asked for or the default, if it can learn from these pairs.

    Raises:
        InputError: it cannot.
    """
    n_queries, has_vectors = len(np.unique(pairs.query_indices)), items.vectors is not None
    found = factorization or default_factorization(n_queries, len(items), has_vectors=has_vectors)
    found.check(pairs, len(items), has_vectors=has_vectors)
    return found


def fitted(
    items: PreparedItems,
    queries: Sequence[str],
    scores: ScoreMatrix,
    factorization: Factorization,
    query_vectors: FloatArray | None,
) -> ItemModel:
    """The item model that a factorization makes of the train queries' scores. No CE call.

    Raises:
        InputError: it cannot learn from such scores or vectors.
    """
    bound = items.bound_first_stage
    first = bound.first if isinstance(bound, BoundWithVectors) else None
    first_stage_scores = None
    if isinstance(first, PairFirstStage):
        first_stage_scores = np.empty(len(scores.values))
        for query, cells in scores.by_query():
            first_stage_scores[cells] = first.scores_of(queries[query], scores.item_indices[cells])
    try:
        return factorization.fit(scores, items.vectors, query_vectors, first_stage_scores)
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"{type(factorization).__name__} cannot learn from these scores over these vectors ({error}): look for "
            "scores or vectors beyond all others, or for vectors that are all the same"
        ) from error


def _scored(
    items: PreparedItems,
    queries: list[str],
    pairs: Pairs,
    ledger: Path,
    options: BuildOptions,
    progress: ProgressCallback | None,
) -> ScoreMatrix:
    """Some pairs' scores, those that a ledger has not yet paid for."""
    values = collect_scores(
        pairs, queries, items.texts, items.scorer, ledger, shard_size=options.shard_size, progress=progress
    )
    return ScoreMatrix.from_pairs(pairs.query_indices, pairs.item_indices, values, (len(queries), len(items)))


def _next(
    items: PreparedItems,
    queries: list[str],
    scores: ScoreMatrix,
    model: ItemModel,
    options: BuildOptions,
    query_vectors: FloatArray | None,
) -> Pairs:
    """The pairs of the second pass: those of which the train queries' own searches would expect most next."""

    def task_of(query: int) -> Task:
        row = slice(query, query + 1)
        return items.task(queries[row], model, None if query_vectors is None else query_vectors[row])

    by_means = METHODS["axn" if model.noise is None else "bayes"]  # bounds teach no more
    pairs = next_pairs(by_means, task_of, scores, options.second_pass)
    return pairs if options.max_calls is None else pairs.capped(options.max_calls - len(scores.values))


def _beyond(progress: ProgressCallback, before: int) -> ProgressCallback:
    """Tells of calls as those of both passes."""
    return lambda done, total: progress(before + done, before + total)
