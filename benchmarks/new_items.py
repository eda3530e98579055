"""Items that come after the index was built: placed by their texts alone, how much of them is found?

    python benchmarks/new_items.py --first-stage MODEL --cache scores.sqlite

A tenth of ICD-10-CM's codes is left out of an index that learns (ten calls for each of its items), and comes later
(`Index.updated`), beside one that learned with them there, and one that learned nothing. Recall of 100 dev queries'
exact top k, in percent: of all their items, and of those of the tenth alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from choices import SEED, opened
from environment import environment

from crossknn import Index
from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.evaluation.replay import System, replay
from crossknn.evaluation.systems import OVER, SystemName
from crossknn.first_stage import Dense

POINTS = ((10, 100), (100, 500))
SYSTEMS = ("axn:mf@10", "bayes:mf-side-refined@10", "bayes/latestates:mf-side-refined@10x125")
UNTAUGHT = "axn"
NEW = 0.1


def found(exact: FloatArray, scored: IntArray, k: int, counted: BoolArray) -> float:
    """Of the counted items in queries' exact top k, the share that was scored, in percent."""
    best = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    hits = [np.isin(row[counted[row]], some) for row, some in zip(best, scored, strict=True)]
    return 100 * float(np.concatenate(hits).mean())


def learned(name: SystemName, base: Index, train: list[str]) -> Index:
    """As the benchmark's names say."""
    return base.learn(train, name.build_options(len(train), len(base), SEED))


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-stage", required=True, help="name or folder of the sentence-transformers encoder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "new_items.json")
    args = parser.parse_args()
    base, train, queries, exact = opened(args.first_stage, args.cache)
    new = np.random.default_rng(SEED).random(len(base)) < NEW
    later = {base.item_ids[n]: base.items[n] for n in np.flatnonzero(new)}
    order = np.concatenate([np.flatnonzero(~new), np.flatnonzero(new)])  # where items stand that came later
    result: dict[str, Any] = {
        "environment": environment(),
        "seed": SEED,
        "queries": len(queries),
        "new": int(new.sum()),
        "recall": {},
    }

    def measure(name: str, how: str, index: Index, order: IntArray) -> None:
        system = System(index, SystemName.parse(name).search_method())
        runs = replay({name: system}, queries, exact[:, order], sorted({m for _, m in POINTS})).runs
        result["recall"].setdefault(name, {})[how] = {
            f"{k}@{m}": {
                "all items": found(exact[:, order], runs[name, m].scored, k, np.ones_like(new)),
                "new items": found(exact[:, order], runs[name, m].scored, k, new[order]),
            }
            for k, m in POINTS
        }
        print(name, how, result["recall"][name][how], flush=True)

    every = np.arange(len(base))
    measure(UNTAUGHT, "there from the start", base, every)
    for system in SYSTEMS:
        name, own = SystemName.parse(system), base
        if name.first is not None:
            assert isinstance(base.first_stage, Dense)
            first_stage = OVER[name.first](base.first_stage.encoder, base.first_stage_vectors, base.scorer)
            own = base.with_first_stage(first_stage)
        measure(system, "there from the start", learned(name, own, train), every)
        measure(system, "come later", learned(name, own.updated(remove=list(later)), train).updated(later), order)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
