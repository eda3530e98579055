"""One budget for many queries: what is found when the calls go where most is missing, for as many calls in all?

    python benchmarks/sharing.py icd10cm-10k --first-stage MODEL --cache scores.sqlite

300 test queries on exact scores, in batches of 64 as `Index.search_batch` has them: every system with the same calls
for each query, and with as many in the mean (`share_budget`); and by how much less it leaves unfound than it did, and
than the paper's best with the same calls for each. Nothing here is learned from the queries reported on: which
query goes on was chosen on dev queries of ICD-10-CM. `--cache` holds scores paid for before (`stored_scores.py fill`).
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from stored_scores import dataset, parser_of

from crossknn.arrays import FloatArray
from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.evaluation import exact_scores
from crossknn.evaluation.measures import error_reduction, top_k_recall
from crossknn.evaluation.systems import OVER, SystemName
from crossknn.first_stage import Dense
from crossknn.index import Index
from crossknn.scorers import CachedScorer, ReplayScorer
from crossknn.search import Progress, RecallTarget, Task, run_rounds, run_sharing

POINTS = ((1, 100), (10, 50), (10, 100), (10, 200), (100, 300))
BATCH = 64
PAPER = {10: "axn-paper-r10-m0.8:mf@10", 2: "axn-paper-r10-m0.8:mf@2"}
SYSTEMS = ("axn", "bayes/latestates:mf-side-refined@10x125", "bayes/latestates:mf-side-refined@2x100")


def recalls(known: list[Progress], exact: FloatArray, k: int) -> FloatArray:
    """(n_queries,) Top-k-Recall."""
    return np.array([top_k_recall(row, progress.indices[0], k) for row, progress in zip(exact, known, strict=True)])


def each(method: Any, task: Task, budget: int) -> list[Progress]:
    """The same calls for each query."""
    progress = run_rounds(method, task, budget)
    return [progress.rows(np.array([row])) for row in range(len(task.queries))]


def main() -> None:
    """Measure, print, and write one JSON."""
    args = parser_of(__doc__).parse_args()
    data = dataset(args.name)
    texts = {s: list(dict.fromkeys(q.text for q in data.queries[s])) for s in ("index_train", args.split)}
    queries, train = texts[args.split][: args.queries], texts["index_train"][: args.train]
    scorer, dense = CachedScorer(open_scorer(args.scorer), args.cache), open_first_stage(args.first_stage)
    assert isinstance(dense, Dense)
    exact = exact_scores(
        queries, list(data.items.values()), scorer, args.cache.with_suffix(f".{args.name}-{args.split}-exact")
    )
    bases: dict[str | None, Index] = {}

    def tasks(name: SystemName) -> list[Task]:
        if name.first not in bases:
            first = dense if name.first is None else OVER[name.first](dense.encoder, None, scorer)
            bases[name.first] = Index.build(data.items, scorer=scorer, first_stage=first)
        index = bases[name.first]
        if name.learner is not None:
            index = index.learn(train, name.build_options(len(train), len(index), 0))
        found = []
        for start in range(0, len(queries), BATCH):
            some = slice(start, start + BATCH)
            replayed = ReplayScorer(exact[some], queries[some], index.items).prepare(index.items)
            found.append(replace(index.task(queries[some]), scorer=replayed))
        return found

    paper = {}
    for calls, text in PAPER.items():
        name = SystemName.parse(text)
        batches = tasks(name)
        for k, budget in POINTS:
            paper[calls, k, budget] = recalls(
                [p for t in batches for p in each(name.search_method(), t, budget)], exact, k
            )
            print(f"{text}: {k}@{budget} {paper[calls, k, budget].mean():.3f}", flush=True)
    rows = []
    for text in SYSTEMS:
        name = SystemName.parse(text)
        batches, method = tasks(name), name.search_method()
        for k, budget in POINTS:
            same = recalls([p for task in batches for p in each(method, task, budget)], exact, k)
            known = [p for t in batches for p in run_sharing(method, t, budget, RecallTarget(method, None, k))]
            shared, spent = recalls(known, exact, k), np.array([progress.indices.shape[1] for progress in known])
            row: dict[str, Any] = {
                "system": text,
                "k": k,
                "budget": budget,
                "each": same.mean(),
                "shared": shared.mean(),
            }
            row |= {"calls": spent.mean(), "fewest": int(spent.min()), "most": int(spent.max())}
            against = (
                {"itself": same}
                if name.calls is None
                else {"itself": same, PAPER[int(name.calls)]: paper[name.calls, k, budget]}
            )
            reduced = {other: error_reduction(shared, found) for other, found in against.items()}
            row["error_reduction"] = {other: None if r is None else asdict(r) for other, r in reduced.items()}
            rows.append(row)
            print(row, flush=True)
    result = {"environment": environment(), "data": args.name, "split": args.split, "queries": len(queries)}
    result |= {
        "items": len(data.items),
        "paper": [{"system": PAPER[c], "k": k, "budget": b, "each": r.mean()} for (c, k, b), r in paper.items()],
    }
    out = args.out or Path(__file__).parent / "results" / f"sharing-{args.name}-{args.split}.json"
    out.write_text(json.dumps(result | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
