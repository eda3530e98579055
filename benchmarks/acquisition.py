"""Which unseen items to score next, given what is believed of each: acquisition, on dev queries of ICD-10-CM.

    python benchmarks/acquisition.py --first-stage MODEL --cache scores.sqlite

`bayes` over `mf-side` at ten calls per item takes the items of the highest expected scores. Here it takes those of
the highest upper confidence bound, of the highest draw from its belief (Thompson), and those most likely to enter the
best 10 or 100 so far, among the 1,000 that it expects to score highest. The same dev queries as `choices.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from choices import CALLS, SEED, opened, recalls
from environment import environment

from crossknn.arrays import FloatArray
from crossknn.evaluation.systems import SystemName
from crossknn.search import AXN, METHODS, Progress, Proposal, SearchMethod, Task
from crossknn.search.stopping import Belief

AMONG = 1000

Acquisition = Callable[[Belief, FloatArray], FloatArray]
"""What is believed of some unseen items, and the scores seen, to how much each is wanted."""


@dataclass(frozen=True)
class Acquiring:
    """A search that asks for the most wanted."""

    method: AXN
    wanted: Acquisition = field(repr=False)

    @property
    def rounds(self) -> int:
        """The method's."""
        return self.method.rounds

    def propose(self, task: Task, progress: Progress, size: int) -> Proposal:
        """The method's first round, then the most wanted."""
        if not progress.rounds:
            return self.method.propose(task, progress, size)
        beliefs = self.method.beliefs(task, progress, max(AMONG, size))
        chosen = []
        for belief, seen in zip(beliefs, progress.scores, strict=True):
            wanted = self.wanted(belief, seen)
            chosen.append(belief.items[np.argsort(-wanted, kind="stable")[:size]])
        return Proposal(np.array(chosen))


def bound(beta: float) -> Acquisition:
    """Mean and ``beta`` deviations."""
    return lambda belief, seen: belief.means + beta * belief.deviations


def drawn() -> Acquisition:
    """Independent draws."""
    rng = np.random.default_rng(SEED)
    return lambda belief, seen: belief.means + belief.deviations * rng.normal(size=len(belief.means))


def entering(k: int) -> Acquisition:
    """Likely to score above the k-th best so far (their order by deviations above it is that of the chances)."""

    def wanted(belief: Belief, seen: FloatArray) -> FloatArray:
        edge = np.sort(seen)[-min(k, len(seen))]
        chances: FloatArray = (belief.means - edge) / belief.deviations
        return chances

    return wanted


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-stage", required=True, help="name or folder of the sentence-transformers encoder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "acquisition.json")
    args = parser.parse_args()
    base, train, queries, exact = opened(args.first_stage, args.cache)
    index = base.learn(train, SystemName.parse(f"bayes:mf-side@{CALLS}").build_options(len(train), len(base), SEED))
    bayes = METHODS["bayes"]
    assert isinstance(bayes, AXN)
    methods: dict[str, SearchMethod] = {
        "mean": bayes,
        **{f"mean and {beta:g} deviations": Acquiring(bayes, bound(beta)) for beta in (0.25, 0.5, 1.0, 2.0)},
        "a draw (Thompson)": Acquiring(bayes, drawn()),
        "chance to enter the best 10": Acquiring(bayes, entering(10)),
        "chance to enter the best 100": Acquiring(bayes, entering(100)),
    }
    found = {}
    for name, method in methods.items():
        found[name] = recalls(index, {"bayes": method}, queries, exact)["bayes"]
        print(name, found[name], flush=True)
        result = {"environment": environment(), "seed": SEED, "queries": len(queries), "recall": found}
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
