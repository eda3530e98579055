"""Does the search know when to stop? Expected recall against true recall, and calls against a fixed budget.

    python benchmarks/stopping.py icd10cm-10k --split test --queries 300 --first-stage MODEL --cache scores.sqlite

Every query is searched to 500 calls, in the rounds of a search to a target, on exact scores; after each round the
recall that the search expects is compared with the one it has. Nothing here is learned from the queries reported on:
the form of the estimate was chosen on the dev queries of ICD-10-CM and HPO. `--cache` holds scores paid for before
(`stored_scores.py fill`). What the file has of other systems, over the same queries, stays.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from stored_scores import dataset, parser_of

from crossknn.arrays import FloatArray
from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.evaluation import exact_scores
from crossknn.evaluation.systems import OVER, SystemName
from crossknn.first_stage import Dense
from crossknn.index import Index
from crossknn.scorers import CachedScorer, ReplayScorer
from crossknn.search import Progress, Rounds, Task
from crossknn.search.stopping import fewest_calls, found_share, n_candidates

KS, TARGETS, BUDGETS = (1, 10, 100), (0.8, 0.9, 0.95, 0.98), (50, 100, 200, 500)
SYSTEMS = ("axn", "bayes:mf-side-refined@10x125", "bayes-ucb/latestates:mf-side-refined@10x125")


@dataclass
class Recorder:
    """Never stops a query, and writes down what it expects of each after every round."""

    method: Any
    exact: FloatArray
    expected: dict[int, list[FloatArray]] = field(default_factory=lambda: defaultdict(list))
    true: dict[int, list[FloatArray]] = field(default_factory=lambda: defaultdict(list))

    def check(self, task: Task) -> None:
        """Any task will do."""

    def enough(self, progress: Progress) -> Any:
        """Never."""
        return np.zeros(len(progress.scores), dtype=bool)

    def expected_recall(self, task: Task, progress: Progress) -> FloatArray:
        """Written down for every k."""
        beliefs = list(self.method.beliefs(task, progress, n_candidates(max(KS))))
        for k in KS:
            edge = -np.partition(-self.exact, k - 1, axis=1)[:, k - 1 : k]
            shares = [found_share(belief, progress.rows(np.array([n])), k) for n, belief in enumerate(beliefs)]
            self.expected[k].append(np.array(shares))
            self.true[k].append(np.minimum((progress.scores >= edge).sum(axis=1), k) / k)
        return self.expected[KS[0]][-1]


@dataclass(frozen=True)
class Trajectory:
    """What searches expected and had after each round.

    Attributes:
        calls: (n_rounds,) of each query so far; all of :data:`BUDGETS` are among them.
        expected, true: (n_queries, n_rounds) recall.
    """

    calls: Any
    expected: FloatArray
    true: FloatArray


def trajectories(index: Index, method: Any, queries: list[str], exact: FloatArray) -> dict[int, Trajectory]:
    """For each k."""
    parts: dict[int, list[Any]] = defaultdict(list)
    for first in range(0, len(queries), 50):
        some = slice(first, first + 50)
        scorer = ReplayScorer(exact[some], queries[some], index.items).prepare(index.items)
        task = replace(index.task(queries[some]), scorer=scorer)
        recorder = Recorder(method, exact[some])
        search, spent = Rounds(method, task, max(BUDGETS), stop=recorder), [0]
        while not search.done:
            rows, columns = search.ask(min(b for b in BUDGETS if b > spent[-1]) - spent[-1])
            search.tell(task.scorer.score(task.queries, rows, columns))
            spent.append(spent[-1] + len(columns) // len(task.queries))
        for k in KS:
            parts[k].append((np.array(recorder.expected[k]).T, np.array(recorder.true[k]).T))
    return {k: Trajectory(np.array(spent[1:]), *(np.vstack(side) for side in zip(*parts[k], strict=True))) for k in KS}


def calibrated(
    index: Index, name: SystemName, queries: list[str], exact_queries: int, paths: dict[int, Trajectory]
) -> dict[int, tuple[Trajectory, int]]:
    """The same searches with their expectation calibrated as ``Index.tune`` does on other queries; and at what cost."""
    after = {}
    for k, path in paths.items():
        tuning = index.tune(queries, k=k, budget=max(BUDGETS), methods=[name.method], exact_queries=exact_queries)
        assert tuning.calibration is not None
        told = tuning.calibration(np.maximum.accumulate(path.expected, axis=1))
        after[k] = (replace(path, expected=told), tuning.calls)
    index.tuning = None
    return after


def readings(path: Trajectory, k: int, seed: int = 0) -> list[dict[str, Any]]:
    """One row a target: calls, recall reached, recall expected, the fixed budget that reaches the same recall, and what
    who knows the true recall would save of that."""
    calls, expected, true, rows = path.calls, path.expected, path.true, []
    for target in TARGETS:
        enough = (expected >= target) & (calls >= fewest_calls(k))
        at = np.where(enough.any(axis=1), enough.argmax(axis=1), len(calls) - 1)
        every = np.arange(len(at))
        spent, reached, thought = calls[at], true[every, at], expected[every, at]
        resampled = np.random.default_rng(seed).integers(0, len(at), size=(1000, len(at)))
        saved = [_saved(calls, true[some], spent[some], reached[some]) for some in resampled]
        fixed = _budget(calls, true.mean(axis=0), reached.mean())
        rows.append(
            {
                "k": k,
                "target": target,
                "calls": float(spent.mean()),
                "recall": float(reached.mean()),
                "expected": float(thought.mean()),
                "fixed_budget_of_equal_recall": fixed,
                "calls_saved": 1 - float(spent.mean()) / fixed,
                "calls_saved_95": [float(q) for q in np.quantile(saved, [0.025, 0.975])],
                "calls_saved_at_most": 1
                - _fewest(calls[calls >= k], true[:, calls >= k], float(reached.mean())) / fixed,
            }
        )
    return rows


def _budget(calls: Any, curve: FloatArray, recall: float) -> float:
    return float(np.interp(recall, np.maximum.accumulate(curve), calls))


def _saved(calls: Any, true: FloatArray, spent: Any, reached: FloatArray) -> float:
    return 1 - float(spent.mean()) / _budget(calls, true.mean(axis=0), float(reached.mean()))


def _fewest(calls: Any, true: FloatArray, recall: float) -> float:
    """Mean calls of whoever knows every query's curve and spends where a call gains most: no search to this mean recall
    takes fewer. Each curve is replaced by its concave hull, which can only help."""
    steps = []
    for curve in true:
        at = 0
        while at < len(calls) - 1:
            slopes = (curve[at + 1 :] - curve[at]) / (calls[at + 1 :] - calls[at])
            to = at + 1 + int(np.argmax(slopes))
            steps.append((slopes[to - at - 1], calls[to] - calls[at]))
            at = to
    slopes, costs = np.array(sorted((step for step in steps if step[0] > 0), reverse=True)).reshape(-1, 2).T
    gained = true[:, 0].mean() + np.append(0, np.cumsum(slopes * costs)) / len(true)
    spent = calls[0] + np.append(0, np.cumsum(costs)) / len(true)
    return float(np.interp(recall, gained, spent))


def at_fixed_budgets(path: Trajectory, k: int) -> list[dict[str, Any]]:
    """How well the expectation orders queries that had the same number of calls (Spearman, ties averaged), and how well
    it could at most if it differed between all queries: most have the same true recall, which no order fits."""
    rows = []
    for budget in BUDGETS:
        if budget < k:
            continue
        at = list(path.calls).index(budget)
        e, t = path.expected[:, at], path.true[:, at]
        varied = np.ptp(t) > 0 and np.ptp(e) > 0
        rho = float(np.corrcoef(_ranks(e), _ranks(t))[0, 1]) if varied else None
        most = float(_ranks(t).std() / np.arange(len(t)).std())
        row = {"k": k, "budget": budget, "recall": t.mean(), "expected": e.mean()}
        rows.append(row | {"spearman": rho, "spearman_at_most": most})
    return rows


def _ranks(values: FloatArray) -> FloatArray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: FloatArray = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return ranks


def main() -> None:
    """Measure, print, and write into one JSON."""
    parser = parser_of(__doc__)
    parser.add_argument("--calibrate", type=int, default=0, help="dev queries to tune on; 0 for none")
    parser.add_argument("--system", action="append", help="as in crossknn benchmark; repeat for more")
    parser.add_argument("--exact", type=int, default=0, help="of these, so many against their exact top k")
    args = parser.parse_args()
    data = dataset(args.name)
    texts = {s: list(dict.fromkeys(q.text for q in data.queries[s])) for s in ("index_train", "dev", args.split)}
    queries, train = texts[args.split][: args.queries], texts["index_train"][: args.train]
    scorer, dense = CachedScorer(open_scorer(args.scorer), args.cache), open_first_stage(args.first_stage)
    assert isinstance(dense, Dense)
    plain: dict[str | None, Index] = {}
    exact = exact_scores(
        queries, list(data.items.values()), scorer, args.cache.with_suffix(f".{args.name}-{args.split}-exact")
    )
    out = args.out or Path(__file__).parent / "results" / f"stopping-{args.name}-{args.split}.json"
    result: dict[str, Any] = {"data": args.name, "split": args.split, "queries": len(queries), "items": len(data.items)}
    before = json.loads(out.read_text()) if out.exists() else {}
    result["systems"] = before["systems"] if {**before, "systems": None} == {**result, "systems": None} else {}
    for system in args.system or SYSTEMS:
        name = SystemName.parse(system)
        if name.first not in plain:
            first = dense if name.first is None else OVER[name.first](dense.encoder, None, scorer)
            plain[name.first] = Index.build(data.items, scorer=scorer, first_stage=first)
        index = plain[name.first]
        if name.learner is not None:
            index = index.learn(train, name.build_options(len(train), len(index), 0))
        paths = trajectories(index, name.search_method(), queries, exact)
        stops = [row for k in KS for row in readings(paths[k], k)]
        fixed = [row for k in KS for row in at_fixed_budgets(paths[k], k)]
        measured: dict[str, Any] = {"environment": environment(), "stopping": stops, "fixed": fixed}
        if args.calibrate:
            tuned = calibrated(index, name, texts["dev"][: args.calibrate], args.exact, paths)
            told = {
                "dev_queries": args.calibrate,
                "of_these_exact": args.exact,
                "calls": {str(k): calls for k, (_, calls) in tuned.items()},
                "stopping": [row for k, (path, _) in tuned.items() for row in readings(path, k)],
                "fixed": [row for k, (path, _) in tuned.items() for row in at_fixed_budgets(path, k)],
            }
            measured["calibrated"] = told
            stops, fixed = stops + told["stopping"], fixed + told["fixed"]
        print(system)
        for row in stops:
            print(
                f"  k {row['k']:3d} target {row['target']:.2f}: {row['calls']:5.0f} calls, recall {row['recall']:.3f}, "
                f"expected {row['expected']:.3f}; a fixed budget needs {row['fixed_budget_of_equal_recall']:5.0f}: "
                f"{row['calls_saved']:.0%} saved ({row['calls_saved_95'][0]:.0%} to {row['calls_saved_95'][1]:.0%})"
            )
        for row in fixed:
            rho = "-" if row["spearman"] is None else f"{row['spearman']:.2f}"
            print(
                f"  k {row['k']:3d} at {row['budget']:3d} calls: recall {row['recall']:.3f}, "
                f"expected {row['expected']:.3f}, Spearman {rho}"
            )
        result["systems"][system] = measured
        out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
