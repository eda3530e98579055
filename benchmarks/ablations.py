"""What each part of our best system is worth: it is taken away, and the rest searches the same test queries.

    python benchmarks/ablations.py icd10cm-10k --first-stage MODEL --cache scores.sqlite

The system is `bayes:mf-side-refined` at so many offline calls per item, learned from 125 index-train queries; the
paper's learns from 500. Parts of the item model are taken out of what was fitted with them, without fitting the rest
again. Beside them the best of the paper's systems, by dev queries; and all of them once more on the queries that the
cross-encoder itself answers right or wrong under brute force. Nothing is chosen here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from environment import environment
from stored_scores import NAMES, dataset, stored

from crossknn import CachedScorer, Index
from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.evaluation.measures import error_reduction, paired_interval, top_k_recall
from crossknn.evaluation.replay import System, replay
from crossknn.evaluation.systems import SystemName
from crossknn.evaluation.task import RightItem
from crossknn.factorization import ItemModel, LinearMap, MFSideInformation
from crossknn.search import METHODS
from crossknn.search.named import method_named

SEED = 0
POINTS = ((1, 100), (10, 100), (100, 500))
QUERIES = 125
WHOLE, PAPER = "whole", "axn-paper-r10-m0.8"


def without(model: ItemModel, columns: slice) -> ItemModel:
    """Without some columns of the item vectors, and of what a query is expected to like."""
    assert isinstance(model.query_map, LinearMap)
    vectors, matrix, offset = (np.array(a) for a in (model.vectors, model.query_map.matrix, model.query_map.offset))
    vectors[:, columns], matrix[:, columns], offset[columns] = 0, 0, 0
    return replace(model, vectors=vectors, query_map=LinearMap(matrix, offset))


def systems(base: Index, train: list[str], calls: float) -> Mapping[str, System]:
    """The whole system first, then without each of its parts."""

    def learned(name: str, queries: int = QUERIES) -> Index:
        parsed = SystemName.parse(f"{name}@{calls:g}x{queries}")
        return base.learn(train, parsed.build_options(len(train), len(base), SEED))

    def with_model(model: ItemModel) -> Index:
        assert whole.learned is not None
        return Index(whole.prepared, learned=replace(whole.learned, item_model=model))

    whole, bayes = learned("bayes:mf-side-refined"), METHODS["bayes"]
    model = whole.item_model
    assert model is not None
    d = MFSideInformation().dimensions
    no_prior = replace(model, follows_first_stage=False, query_map=None)
    return {
        WHOLE: System(whole, bayes),
        "with 500 train queries, a quarter as many scores of each": System(
            learned("bayes:mf-side-refined", 500), bayes
        ),
        "without the second pass": System(learned("bayes:mf-side"), bayes),
        "without the learned factors": System(with_model(without(model, slice(0, d))), bayes),
        "without the dual encoder, in the mean and beside": System(with_model(without(model, slice(d, -1))), bayes),
        "without item biases": System(with_model(replace(model, biases=np.zeros_like(model.biases))), bayes),
        "without an expectation of the query": System(with_model(no_prior), bayes),
        "without the learned prior: as `axn`, in 20 rounds": System(whole, replace(METHODS["axn"], rounds=20)),
        "in ten rounds": System(whole, replace(bayes, rounds=10)),
        PAPER: System(learned("axn:mf", 500), method_named(PAPER)),
    }


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--calls", type=float, default=10, help="offline calls per item")
    parser.add_argument("--first-stage", required=True, help="name or folder of the sentence-transformers encoder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    queries, _, exact = stored(args.name, "test")
    data = dataset(args.name)
    train = [q for q in dict.fromkeys(q.text for q in data.queries["index_train"]) if q not in queries][:500]
    first_stage = open_first_stage(f"st:{args.first_stage}")
    base = Index.build(data.items, scorer=CachedScorer(open_scorer("demo"), args.cache), first_stage=first_stage)
    compared = systems(base, train, args.calls)
    runs = replay(compared, queries, exact, sorted({m for _, m in POINTS})).runs
    found = {
        (name, k, m): np.array([top_k_recall(e, s, k) for e, s in zip(exact, runs[name, m].scored, strict=True)])
        for name in compared
        for k, m in POINTS
    }
    label_of = {q.text: q.item_id for q in reversed(data.queries["test"])}
    judge = RightItem([label_of[query] for query in queries], list(data.items), list(data.items.values()))
    right = judge.measure(exact, np.broadcast_to(np.arange(exact.shape[1]), exact.shape))["accuracy"] > 0
    rows = []
    for group, some in (("all", right | ~right), ("right", right), ("wrong", ~right)):
        for name in compared:
            at = {}
            for k, m in POINTS:
                ours, rest = found[WHOLE, k, m][some], found[name, k, m][some]
                less = error_reduction(ours, rest, seed=SEED)
                at[f"{k}@{m}"] = {
                    "recall": float(rest.mean()),
                    "lost": asdict(paired_interval(ours, rest, seed=SEED)),
                    "less_error_than_it": None if less is None else asdict(less),
                }
            rows.append({"system": name, "answered": group, "queries": int(some.sum()), "at": at})
            print(group, name, {point: round(100 * of["recall"], 1) for point, of in at.items()}, flush=True)
    out = args.out or Path(__file__).parent / "results" / f"ablations-{args.name}.json"
    result = {"environment": environment(), "seed": SEED, "calls": args.calls, "train_queries": QUERIES, "rows": rows}
    out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
