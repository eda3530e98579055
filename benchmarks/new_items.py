"""Items that come after the index was learned: placed by their vectors alone, how much of them is found?

    python benchmarks/new_items.py --first-stage MODEL --cache scores.sqlite

A tenth of ICD-10-CM's codes is left out of what `mf-side` learns from (ten calls per item, 500 index-train queries),
and placed afterwards (`ItemModel.place`). Beside it the same index that learned from their scores as well, and one that
learned nothing. Recall of dev queries' exact top k, in percent: of all their items, and of those of the tenth alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from choices import CALLS, SEED, opened
from environment import environment

from crossknn import Index
from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.evaluation.replay import System, replay
from crossknn.evaluation.systems import SystemName
from crossknn.factorization import ItemModel, MFSideInformation
from crossknn.scores import ScoreMatrix
from crossknn.search import METHODS

POINTS = ((10, 100), (100, 500))
NEW = 0.1


def placed(index: Index, base: Index, new: BoolArray) -> ItemModel:
    """What the old items' scores alone teach, and the new ones placed by it."""
    scores, x = index.train_scores, base.first_stage_vectors
    assert scores is not None
    assert x is not None
    old = ~new
    kept, position = old[scores.item_indices], np.cumsum(old) - 1
    cells = scores.query_indices[kept], position[scores.item_indices[kept]], scores.values[kept]
    vectors = np.vstack([base.task([query]).query_vectors for query in index.train_queries])
    learned = MFSideInformation().fit(
        ScoreMatrix.from_pairs(*cells, (len(index.train_queries), int(old.sum()))), x[old], vectors
    )
    both, biases = np.empty((len(x), learned.vectors.shape[1]), dtype=np.float32), np.zeros(len(x), dtype=np.float32)
    both[old], both[new], biases[old] = learned.vectors, learned.place(x[new]), learned.biases
    return ItemModel(
        both, biases, learned.normalisation, query_map=learned.query_map, noise=learned.noise, item_map=learned.item_map
    )


def found(exact: FloatArray, scored: IntArray, k: int, counted: BoolArray) -> float:
    """Of the counted items in queries' exact top k, the share that was scored, in percent."""
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    hits = [np.isin(row[counted[row]], some) for row, some in zip(best, scored, strict=True)]
    return 100 * float(np.concatenate(hits).mean())


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-stage", required=True, help="name or folder of the sentence-transformers encoder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "new_items.json")
    args = parser.parse_args()
    base, train, queries, exact = opened(args.first_stage, args.cache)
    index = base.learn(train, SystemName.parse(f"bayes:mf-side@{CALLS}").build_options(len(train), len(base), SEED))
    new = np.random.default_rng(SEED).random(len(base)) < NEW
    later = Index(
        dict(zip(base.item_ids, base.items, strict=True)),
        base.scorer,
        base.first_stage,
        first_stage_kept=base.first_stage_kept,
        item_model=placed(index, base, new),
        train_queries=train,
    )
    systems = {
        "learned from their scores": System(index, METHODS["bayes"]),
        "placed by their vectors": System(later, METHODS["bayes"]),
        "nothing learned of any item": System(base, METHODS["axn"]),
    }
    runs = replay(systems, queries, exact, sorted({m for _, m in POINTS})).runs
    result = {"environment": environment(), "seed": SEED, "queries": len(queries), "new": int(new.sum()), "recall": {}}
    for name in systems:
        result["recall"][name] = {
            f"{k}@{m}": {
                "all items": found(exact, runs[name, m].scored, k, np.ones_like(new)),
                "new items": found(exact, runs[name, m].scored, k, new),
            }
            for k, m in POINTS
        }
        print(name, result["recall"][name], flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
