"""Choices on dev queries of ICD-10-CM: which pairs to score, noise of AXN's solver, ridge of MF_Trns, epochs.

    python benchmarks/choices.py --first-stage MODEL --cache scores.sqlite

Ten calls per item from 500 index-train queries, as in docs/results/choices.md, or from the items' own texts in their
place; recall on 100 dev queries whose exact scores are stored. MF_Ind stops by itself, on held-out cells. Rounds and
lambda are compared by `crossknn benchmark` (`results.sh choices`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from stored_scores import dataset, stored

from crossknn import BayesianRidge, CachedScorer, Distillation, Index, PerItem, PerQuery
from crossknn.arrays import FloatArray
from crossknn.cli.models import open_first_stage, open_scorer
from crossknn.errors import import_extra
from crossknn.evaluation.lab import over_fine_tuned
from crossknn.evaluation.measures import top_k_recall
from crossknn.evaluation.replay import System, replay
from crossknn.evaluation.systems import SystemName
from crossknn.factorization import Factorization, MFSideInformation, MFTransductive, MFTransductiveAdamW
from crossknn.learning import BuildOptions
from crossknn.search import AXN, METHODS, SearchMethod, method_named

NAME, CALLS, SEED = "icd10cm-10k", 10, 0
POINTS = ((1, 10), (1, 100), (10, 100), (10, 200), (100, 200), (100, 500))
NOISES = (0.01, 0.03, 0.1, 0.3, 1.0)
RIDGES = (0.3, 1.0, 3.0)

Experiment = Callable[[], tuple[Index, Mapping[str, SearchMethod]]]


def plans(n_items: int) -> dict[str, tuple[int, BuildOptions]]:
    """Which pairs are scored, ten for each item, of how many train queries."""
    whole = CALLS * n_items // 500
    half, quarter = whole // 2, whole // 4
    return {
        "nearest of each query": (500, BuildOptions(PerQuery(whole, 0))),
        "random of each query": (500, BuildOptions(PerQuery(0, whole))),
        "half nearest, half random": (500, BuildOptions(PerQuery(half, half))),
        "random queries of each item": (500, BuildOptions(PerItem(0, CALLS))),
        "half nearest, half random of each item": (500, BuildOptions(PerItem(CALLS // 2, CALLS // 2))),
        "half in a second pass": (500, BuildOptions(PerQuery(quarter, quarter), refine=half)),
        "three quarters in a second pass": (
            500,
            BuildOptions(PerQuery(quarter // 2, quarter // 2), refine=whole - quarter),
        ),
        "250 queries, half in a second pass": (250, BuildOptions(PerQuery(half, half), refine=whole)),
        "125 queries, half in a second pass": (125, BuildOptions(PerQuery(whole, whole), refine=2 * whole)),
        "60 queries, half in a second pass": (60, BuildOptions(PerQuery(2 * whole, 2 * whole), refine=4 * whole)),
    }


def opened(first_stage: str, cache: Path) -> tuple[Index, list[str], list[str], FloatArray]:
    """An index that learned nothing, 500 train queries, and the dev queries with their exact scores."""
    queries, _, exact = stored(NAME, "dev")
    data = dataset(NAME)
    train = [q for q in dict.fromkeys(q.text for q in data.queries["index_train"]) if q not in queries][:500]
    scorer = CachedScorer(open_scorer("demo"), cache)
    return (
        Index.build(data.items, scorer=scorer, first_stage=open_first_stage(f"st:{first_stage}")),
        train,
        queries,
        exact,
    )


def recalls(
    index: Index, methods: Mapping[str, SearchMethod], queries: list[str], exact: FloatArray
) -> dict[str, dict[str, float]]:
    """Mean recall at the headline points, in percent, of some methods over an index."""
    systems = {name: System(index, method) for name, method in methods.items()}
    runs = replay(systems, queries, exact, sorted({m for _, m in POINTS})).runs
    return {
        name: {
            f"{k}@{m}": 100
            * float(np.mean([top_k_recall(e, s, k) for e, s in zip(exact, runs[name, m].scored, strict=True)]))
            for k, m in POINTS
        }
        for name in methods
    }


def experiments(base: Index, train: list[str], args: argparse.Namespace) -> Iterator[tuple[str, Experiment]]:
    """Name and what makes it: an index, and the methods that search it."""
    noises = {f"axn, noise {s:g}": AXN(solver=BayesianRidge(noise=s, intercept_variance=10.0)) for s in NOISES}
    axn = {"axn": METHODS["axn"]}
    bayes = {name: method_named(name) for name in ("bayes", "bayes/vectors")}
    options = SystemName.parse(f"axn:mf@{CALLS}").build_options(len(train), len(base), SEED)

    def learned(queries: list[str], plan: BuildOptions, factorization: Factorization) -> Index:
        return base.learn(queries, replace(plan, factorization=factorization))

    yield "nothing", lambda: (base, noises)
    for name, (n_queries, plan) in plans(len(base)).items():
        some = train[:n_queries]
        yield f"mf, {name}", partial(lambda q, p: (learned(q, p, MFTransductive()), axn), some, plan)
        yield f"mf-side, {name}", partial(lambda q, p: (learned(q, p, MFSideInformation()), bayes), some, plan)
    for n in (500, 250, 100, 50):
        part = -(-2 * len(base) // (4 * n))  # two calls per item in all
        plan = BuildOptions(PerQuery(part, part), refine=2 * part, max_calls=2 * len(base))
        make = partial(lambda q, p: (learned(q, p, MFSideInformation()), bayes), train[:n], plan)
        yield f"mf-side, two calls per item, {n} queries, half in a second pass", make
    for n in (5, 10, 30, 100, 500):
        plan = BuildOptions(PerQuery(50, 50))
        make = partial(lambda q, p: (learned(q, p, MFTransductive()), axn), train[:n], plan)
        yield f"mf, a hundred calls of each of {n} queries", make
        make = partial(lambda q, p: (learned(q, p, MFSideInformation()), bayes), train[:n], BuildOptions())
        yield f"mf-side, a hundred calls of each of {n} queries, half in a second pass", make
    texts = list(dict.fromkeys(base.items))
    yield "mf, items' own texts as queries", lambda: (base.learn(texts, BuildOptions(PerQuery(5, 5))), axn)
    shuffled = [texts[n] for n in np.random.default_rng(SEED).permutation(len(texts))]
    drawn = shuffled[:125]
    plan = plans(len(base))["125 queries, half in a second pass"][1]
    yield "mf, 125 items' own texts as queries", lambda: (learned(drawn, plan, MFTransductive()), axn)
    yield "mf-side, 125 items' own texts as queries", lambda: (learned(drawn, plan, MFSideInformation()), bayes)
    for n in (100, 500):
        make = partial(lambda q: (learned(q, BuildOptions(), MFSideInformation()), bayes), shuffled[:n])
        yield f"mf-side, a hundred calls of each of {n} items' own texts, half in a second pass", make
    for ridge in RIDGES:
        searched = noises if ridge == MFTransductive().ridge else axn
        mf = MFTransductive(ridge=ridge)
        yield f"mf, ridge {ridge:g}", partial(lambda f, m: (learned(train, options, f), m), mf, searched)
    both = {name: METHODS[name] for name in ("axn-paper", "axn")}
    for epochs in args.adamw:
        adamw = MFTransductiveAdamW(epochs=epochs)
        yield f"mf-adamw, {epochs} epochs", partial(lambda f: (learned(train, options, f), both), adamw)

    def distilled(epochs: int) -> tuple[Index, Mapping[str, SearchMethod]]:
        scored = base.learn(train, options)
        assert scored.train_scores is not None
        model = import_extra("sentence_transformers", "torch").SentenceTransformer(args.first_stage, device="cpu")
        distillation = Distillation(epochs=epochs, learning_rate=1e-5)  # the paper's
        distillation.fit(model, scored.train_queries, base.items, scored.train_scores)
        return over_fine_tuned(scored, model, MFTransductive(sweeps=0))[0], axn

    for epochs in args.distilled:
        yield f"distilled, {epochs} epochs", partial(distilled, epochs)


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first-stage", required=True, help="name or folder of the sentence-transformers encoder")
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--adamw", type=int, nargs="*", default=[5, 10, 20], help="epochs")
    parser.add_argument("--distilled", type=int, nargs="*", default=[1, 3], help="epochs")
    parser.add_argument("--only", help="measure what has this in its name, beside what the file has already")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "choices.json")
    args = parser.parse_args()
    base, train, queries, exact = opened(args.first_stage, args.cache)
    if args.only and not any(args.only in name for name, _ in experiments(base, train, args)):
        parser.error(f"nothing is called {args.only!r}")
    known: dict[str, Any] = json.loads(args.out.read_text())["recall"] if args.only else {}
    found: dict[str, Any] = {}
    for name, make in experiments(base, train, args):
        if args.only and args.only not in name:
            found |= {name: known[name]} if name in known else {}
            continue
        index, methods = make()
        found[name] = recalls(index, methods, queries, exact)
        print(name, found[name], flush=True)
        result = {"environment": environment(), "seed": SEED, "queries": len(queries), "recall": known | found}
        args.out.write_text(json.dumps(result, indent=2) + "\n")
    result["recall"] = found
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
