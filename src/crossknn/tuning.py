"""Choosing how to search: methods compared on queries of the user's own, without labels and without exact scores."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization import ItemModel
from crossknn.recall import share_of_best
from crossknn.scorers.base import BoundScorer, checked_scores
from crossknn.search import (
    Calibration,
    Progress,
    RecallTarget,
    Rounds,
    SearchMethod,
    Task,
    check_searches,
    method_named,
    run,
    run_rounds,
)
from crossknn.search.stopping import can_tell

_DEEPER = 3
_AT_ONCE = 64
"""Queries that are searched together."""

_BUDGETS = (25, 50, 100, 200, 400, 800)


@dataclass(frozen=True)
class Trial:
    """One method at one budget.

    Attributes:
        method: its name, as :func:`~crossknn.search.method_named` takes it.
        budget: CE calls per query.
        recall: mean Top-k-Recall, in 0..1, of the best k items that any trial found.
    """

    method: str
    budget: int
    recall: float


@dataclass(frozen=True)
class Tuning:
    """How an index was found to be searched best.

    Attributes:
        method: name of the method chosen.
        budget: CE calls per query.
        k: hits that it was chosen for.
        expected_recall: Top-k-Recall to expect of it, in 0..1: the mean over queries of what is reached by the choice
            that the *other* queries make, so that choosing does not flatter. Of the best k items that any trial found:
            where all trials miss an item it counts for none.
        interval: of that, 95% by bootstrap over the queries; None of an index that an earlier version tuned.
        queries: how many it was chosen on.
        calls: CE calls that choosing cost.
        trials: all that was compared.
        calibration: what the recall that the chosen method expects of a query, in a search to a target, is worth; None
            for a method that expects none.
    """

    method: str
    budget: int
    k: int
    expected_recall: float
    queries: int
    calls: int
    trials: tuple[Trial, ...]
    calibration: Calibration | None = None
    interval: tuple[float, float] | None = None


def candidates(items: ItemModel | None, *, has_query_vectors: bool) -> list[str]:
    """Names of the methods that are compared unless others are named: several rounds, mixings and first rounds of those
    that can search an index, the one that searches it untuned first."""
    if items is None:
        return ["rerank"]
    names = ["axn", "axn-r20", "axn-r5"]
    if items.noise is not None:
        names = ["bayes-ucb", "bayes", "bayes-ucb-r50", "bayes-r10", *names]
    if has_query_vectors:
        names += ["axn/vectors", "axn-r5/vectors", "axn-paper-r10-m0.8", "axn-paper-r10-m0.5"]
    return [*names, "axn-paper", *(["rerank/vectors"] if has_query_vectors else []), "rerank"]


def tune(
    task: Task,
    *,
    k: int,
    budget: int,
    target_recall: float | None = None,
    methods: Sequence[str] | None = None,
    exact_queries: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Compare methods on a task's queries, and choose.

    Every method is run at the budget and three times deeper; the best k items that any of them found stand for the
    exact top k (pooling, as TREC judges). Without a target the method with the highest recall at the budget is chosen;
    with one, the method and budget that reach it with the fewest calls. Where the best is ahead of an earlier one in
    ``methods`` by no more than a standard error, that is taken.

    Args:
        task: the queries; at least 2.
        k: hits.
        budget: CE calls per query, at least k; with a target the most that may be spent.
        target_recall: above 0, below 1.
        methods: names to compare; None takes those of :func:`candidates`.
        exact_queries: of so many queries, the first ones, all items are scored after all (dense rows). What the search
            had of these queries' exact top k is less than it had of the pool, most where k is large, and what all
            queries had is corrected by that share before the search is calibrated on it.
        progress: told of trials and dense rows done and in all.

    Raises:
        InputError: fewer than 2 queries, a budget below k, an unknown method, a target outside 0..1, no method reaches
            it within the budget, or more exact queries than queries.
        ScorerError: the scorer failed.

    A chosen method that knows how sure it is then searches to the most calls that may be spent, in the rounds of a
    search to a target, and what it expects after each is compared with what it has
    (:class:`~crossknn.search.Calibration`).

    Cost: each pair that any trial looks at, once; in practice some ``5`` to ``10 budget`` per query. All items for each
    of the exact queries, where the chosen method knows how sure it is.
    """
    names = _checked(task, k, budget, target_recall, methods, exact_queries)
    budgets = [budget] if target_recall is None else sorted({b for b in _BUDGETS if k <= b < budget} | {budget})
    plan = [(name, b) for b in budgets for name in names]
    within = min(k, task.first_stage_scores.shape[1])  # hits that there can be
    scorer, told = _Remembering(task), progress or (lambda done, total: None)
    found: dict[tuple[str, int], FloatArray] = {}
    trials = [*plan, *((name, _DEEPER * budget) for name in names)]
    steps = len(trials) + exact_queries
    for n, (name, calls) in enumerate(trials):
        searches = (run_rounds(method_named(name), some, calls) for _, some in scorer.parts())
        found[name, calls] = np.vstack([search.scores for search in searches])
        told(n + 1, steps)
    every = np.arange(len(task.queries))
    reached = np.array(scorer.recalls([found[trial] for trial in plan], within, every))
    best = _choice(plan, reached, target_recall)
    if best is None:
        raise InputError(
            f"no method reaches a recall of {target_recall:g} with {budget} calls; the best is "
            f"{reached.mean(axis=1).max():.3f}: allow more calls or a lower target"
        )
    by_others = [_choice(plan, np.delete(reached, query, axis=1), target_recall) for query in every]
    by_each = np.array([reached[best if n is None else n, query] for query, n in enumerate(by_others)])
    chosen, calibration = method_named(plan[best][0]), None
    if can_tell(chosen, task.item_model):  # else dense rows would tell nothing, and none is bought
        calibration = _calibrated(
            chosen, scorer, within, budget, exact_queries, lambda row: told(len(trials) + row + 1, steps)
        )
    elif exact_queries:
        told(steps, steps)
    return Tuning(
        *plan[best],
        k,
        float(by_each.mean()),
        len(task.queries),
        scorer.calls,
        tuple(Trial(*trial, float(mean)) for trial, mean in zip(plan, reached.mean(axis=1), strict=True)),
        calibration,
        _interval(by_each),
    )


def _checked(
    task: Task,
    k: int,
    budget: int,
    target_recall: float | None,
    methods: Sequence[str] | None,
    exact_queries: int,
) -> Sequence[str]:
    """The methods' names, before anything is paid."""
    if len(task.queries) < 2:
        raise InputError(
            f"tuning compares methods on queries that the index has not learned from; there are {len(task.queries)}: "
            "give 2 at least (30 are better)"
        )
    if target_recall is not None and not (isinstance(target_recall, int | float) and 0 < target_recall < 1):
        raise InputError(f"target_recall must lie between 0 and 1, got {target_recall!r}")
    if budget < k:
        raise InputError(f"budget is {budget}, but k={k} hits need at least as many cross-encoder calls")
    if not 0 <= exact_queries <= len(task.queries):
        raise InputError(f"exact_queries must lie between 0 and the {len(task.queries)} queries, got {exact_queries}")
    if isinstance(methods, str):
        raise InputError(f"methods must be a list of names, got one text, {methods!r}")
    names = methods or candidates(task.item_model, has_query_vectors=task.query_vectors is not None)
    for name in names:
        try:
            check_searches(method_named(name), task, budget)
        except InputError as error:
            raise InputError(f"{name} cannot be compared: {error}") from error
    return names


def _calibrated(
    method: SearchMethod,
    scorer: _Remembering,
    k: int,
    budget: int,
    exact_queries: int,
    completed: Callable[[int], None],
) -> Calibration:
    """Searches that go on to the budget, what they expect after each round against what they have."""
    watches = []
    for part, some in scorer.parts():
        watches.append(_Watch(RecallTarget(method, None, k), part))
        run(Rounds(method, some, budget, stop=watches[-1]), some)
    pooled = np.vstack([watch.recall(scorer) for watch in watches])
    for row in range(exact_queries):
        scorer.complete(row)
        completed(row)
    exact = np.vstack([watch.recall(scorer) for watch in watches])[:exact_queries]
    share = exact.sum() / max(pooled[:exact_queries].sum(), 1e-9) if exact_queries else 1.0
    expected = np.vstack([watch.expected() for watch in watches])
    return Calibration.fitted(expected, np.vstack([exact, share * pooled[exact_queries:]]), k)


def _interval(values: FloatArray) -> tuple[float, float]:
    """95% bootstrap interval of the mean."""
    resampled = np.random.default_rng(0).integers(len(values), size=(2_000, len(values)))
    low, high = np.quantile(values[resampled].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


@dataclass
class _Watch:
    """Stops no search, and writes down what is expected after each round.

    Attributes:
        target: expects it.
        part: of all queries, those of this search.
        seen: what was expected of each query, and what it had scored, after each round.
    """

    target: RecallTarget
    part: IntArray
    seen: list[tuple[FloatArray, FloatArray]] = field(default_factory=list)

    def check(self, task: Task) -> None:
        self.target.check(task)

    def expected_recall(self, task: Task, progress: Progress) -> FloatArray:
        expected = self.target.expected_recall(task, progress)
        if progress.scores.shape[1] >= self.target.k:
            self.seen.append((expected, progress.scores.copy()))
        return expected

    def enough(self, progress: Progress) -> BoolArray:
        return self.target.enough(progress)

    def expected(self) -> FloatArray:
        """(n_queries, n_rounds)."""
        expected: FloatArray = np.array([told for told, _ in self.seen]).T
        return expected

    def recall(self, scorer: _Remembering) -> FloatArray:
        """(n_queries, n_rounds), by what is known now."""
        reached: FloatArray = np.array(scorer.recalls([some for _, some in self.seen], self.target.k, self.part)).T
        return reached


def _choice(plan: Sequence[tuple[str, int]], reached: FloatArray, target: float | None) -> int | None:
    """The position of the trial that is taken, by what (n_trials, n_queries) have reached; None if none is good enough.

    Of the fewest calls that will do, the first trial that is less than a standard error of their difference behind the
    best (the one-standard-error rule of Breiman et al., *Classification and Regression Trees*, 1984, 3.4.3, on pairs).
    """
    means = reached.mean(axis=1)
    enough = [n for n, mean in enumerate(means) if target is None or mean >= target]
    if not enough:
        return None
    calls = min(plan[n][1] for n in enough)
    able = [n for n in enough if plan[n][1] == calls]
    best = max(able, key=lambda n: means[n])
    behind = reached[best] - reached[able]
    error = behind.std(axis=1, ddof=1) / np.sqrt(behind.shape[1]) if behind.shape[1] > 1 else np.zeros(len(able))
    return able[int(np.argmax(behind.mean(axis=1) <= error + 1e-12))]


class _Remembering(BoundScorer):
    """A bound scorer that pays for a pair once."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._rows = {query: row for row, query in enumerate(task.queries)}
        self._some: list[dict[int, float]] = [{} for _ in task.queries]
        self._all: dict[
            int, FloatArray
        ] = {}  # (n_items,) of queries that are known whole, NaN where nothing is allowed

    def parts(self) -> Iterator[tuple[IntArray, Task]]:
        """The queries that are searched together, some at a time, and a task of them that pays for a pair once."""
        for start in range(0, len(self._task.queries), _AT_ONCE):
            part = np.arange(start, min(start + _AT_ONCE, len(self._task.queries)))
            yield part, replace(self._task.rows(part), scorer=self)

    @property
    def calls(self) -> int:
        return sum(map(len, self._some)) + sum(int(np.isfinite(scores).sum()) for scores in self._all.values())

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        rows = np.array([self._rows[query] for query in queries], dtype=np.int64)[query_indices]
        pairs = list(zip(rows.tolist(), np.asarray(item_indices).tolist(), strict=True))
        new = np.array([row not in self._all and item not in self._some[row] for row, item in pairs], dtype=bool)
        if new.any():
            some = checked_scores(self._task.scorer, self._task.queries, rows[new], np.asarray(item_indices)[new])
            for row, item, value in zip(rows[new].tolist(), item_indices[new].tolist(), some.tolist(), strict=True):
                self._some[row][item] = value
        return np.array([self._all[row][item] if row in self._all else self._some[row][item] for row, item in pairs])

    def complete(self, row: int) -> None:
        """Score all items that a search of a query may score."""
        n_items, allowed = self._task.first_stage_scores.shape[1], self._task.allowed
        scores = np.full(n_items, np.nan)
        scores[list(self._some[row])] = list(self._some[row].values())
        new = np.isnan(scores) if allowed is None else np.isnan(scores) & allowed
        items = np.flatnonzero(new)
        if len(items):
            rows = np.full(len(items), row)
            scores[items] = checked_scores(self._task.scorer, self._task.queries, rows, items)
        self._all[row], self._some[row] = scores, {}

    def recalls(self, found: Sequence[FloatArray], k: int, rows: IntArray) -> list[FloatArray]:
        """For each of several runs of the same queries, whose scores are (n_rows, n_found), the (n_rows,)
        Top-k-Recall, of the k highest that are known of each query."""
        best = [np.sort(self._known(row))[-k:] for row in rows.tolist()]
        return [np.array([share_of_best(*pair, k) for pair in zip(best, run, strict=True)]) for run in found]

    def _known(self, row: int) -> FloatArray:
        if row in self._all:
            return self._all[row][np.isfinite(self._all[row])]
        return np.fromiter(self._some[row].values(), dtype=np.float64)
