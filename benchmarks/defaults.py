"""Which settings of AXN should be the defaults? Chosen on dev queries; test queries are not touched.

    python benchmarks/defaults.py --work training/runs/demo/defaults

Items are the ICD-10-CM codes of the index-train and dev categories; train queries are index-train. Every method runs on
stored exact scores, so only the ground truth and the train scores cost calls (kept in the work folder).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from environment import environment

from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.datasets.icd10cm import load_icd10cm
from crossknn.evaluation import EvaluationOptions, evaluate
from crossknn.factorization import MFTransductive
from crossknn.index import BuildOptions, Index
from crossknn.scores import PerQuery
from crossknn.search import AXN, BayesianRidge, MinNorm, Rerank, SearchMethod

POINTS = ((1, 50), (1, 100), (10, 100), (10, 200), (100, 200), (100, 500))


def methods() -> Iterator[tuple[str, SearchMethod]]:
    """What is compared."""
    yield "rerank", Rerank()
    for rounds in (5, 10):
        for mixing in (0.0, 0.5):
            yield f"min-norm R={rounds} mixing={mixing}", AXN(rounds=rounds, mixing=mixing, solver=MinNorm())
        for noise in (0.01, 0.03, 0.1, 0.3):
            solver = BayesianRidge(noise=noise, covariance=1.0, intercept_variance=10.0)
            yield f"ridge R={rounds} noise={noise}", AXN(rounds=rounds, solver=solver)


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=40)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "defaults.json")
    args = parser.parse_args()
    data = load_icd10cm()
    part = data.subset((i for i, s in data.item_splits.items() if s in ("index_train", "dev")), "icd10cm-dev")
    dev = [q.text for q in part.queries["dev"][: args.queries]]
    train = [q.text for q in part.queries["index_train"][: args.train]]
    scorer, first_stage = open_scorer("demo"), open_first_stage("demo")
    untrained = Index.build(part.items, scorer=scorer, first_stage=first_stage)
    options = BuildOptions(plan=PerQuery(50, 50))
    trained = Index.build(
        part.items, scorer=scorer, first_stage=first_stage, queries=train, options=options, out=args.work / "index"
    )
    indexes = {"no train queries": untrained}
    train = trained.train_queries
    vectors = untrained.task(train).query_vectors
    assert untrained.item_model is not None
    assert trained.train_scores is not None
    for ridge in (0.3, 1.0, 3.0):
        index = Index(
            part.items,
            scorer,
            first_stage,
            train_queries=train,
            train_scores=trained.train_scores,
            item_model=MFTransductive(ridge).fit(trained.train_scores, untrained.item_model.vectors, vectors),
        )
        indexes[f"{len(train)} train queries, ridge={ridge}"] = index
    rows = []
    for name, index in indexes.items():
        for budget in sorted({m for _, m in POINTS}):
            ks = [k for k, m in POINTS if m == budget]
            found = EvaluationOptions(ks=ks, budgets=(budget,), methods=dict(methods()))
            for cell in evaluate(index, dev, folder=args.work / "exact", options=found).cells:
                rows += [
                    {
                        "index": name,
                        "method": cell.method,
                        "k": k,
                        "m": budget,
                        "recall": r.mean,
                        "gain": cell.gain[k].mean,
                    }
                    for k, r in cell.recall.items()
                ]
    result = {"environment": environment(), "queries": len(dev), "items": len(part.items), "rows": rows}
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(" " * 48, *(f"{k:>3}@{m:<4}" for k, m in POINTS))
    for index in indexes:
        for method, _ in methods():
            values = [
                next(r["recall"] for r in rows if (r["index"], r["method"], r["k"], r["m"]) == (index, method, k, m))
                for k, m in POINTS
            ]
            print(f"{index[:26]:26} {method:22}", *(f"{v:8.3f}" for v in values), f"{np.mean(values):8.3f}")


if __name__ == "__main__":
    main()
