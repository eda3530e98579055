"""Is the demo's cross-encoder good under brute force? The bars it had to pass, on test queries of ICD-10-CM.

    python benchmarks/demo_model.py --model RUN/onnx/cross_encoder --fp32 RUN/fp32 --work RUN/measured
    python benchmarks/demo_model.py --quick     # eight minutes, on dev and index-train queries: to choose by

Accuracy is counted by description: 1,463 codes share theirs with another. Scores are kept in the work folder, so a run
that was stopped goes on. On two cores: about an hour for 300 queries over the 10K subset, half an hour for 50 of them
over all codes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from environment import environment

from crossknn import BuildOptions, Index
from crossknn.arrays import FloatArray
from crossknn.cli.models import demo_folder
from crossknn.datasets.icd10cm import load_icd10cm, load_icd10cm_10k
from crossknn.datasets.splits import Dataset
from crossknn.evaluation import exact_scores, paired_interval
from crossknn.factorization import MFSideInformation
from crossknn.first_stage import Dense, OnnxEncoder
from crossknn.scorers import OnnxScorer
from crossknn.scores import Pairs, PerQuery, collect_scores
from crossknn.vectors import top_k

SEED = 0


def watch(label: str) -> Callable[[int, int], None]:
    """Progress in one line."""

    def report(done: int, total: int) -> None:
        sys.stderr.write(f"\r{label}: {done:,} of {total:,}")
        sys.stderr.flush()

    return report


def brute_force(queries: list[str], items: list[str], scorer: OnnxScorer, folder: Path, label: str) -> FloatArray:
    """(n_queries, n_items) exact scores, fifty queries a ledger: a later run on more queries finds these done."""
    blocks = range(0, len(queries), 50)
    return np.vstack(
        [
            exact_scores(queries[b : b + 50], items, scorer, folder / f"{b}", progress=watch(f"{label}, queries {b}+"))
            for b in blocks
        ]
    )


def right_at_top(scores: FloatArray, texts: np.ndarray, labels: np.ndarray) -> FloatArray:
    """(n_queries,) 1 where the best item reads as the label does; equal scores by position."""
    return (texts[np.argmax(scores, axis=1)] == labels).astype(float)


def correlation_of_ranks(a: FloatArray, b: FloatArray) -> float:
    """Spearman's."""
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


@dataclass(frozen=True)
class Scored:
    """Test queries with all their scores, int8 and the dual encoder's: (n_queries, n_items) each."""

    queries: list[str]
    items: list[str]
    texts: np.ndarray
    labels: np.ndarray
    exact: FloatArray
    dense: FloatArray

    @classmethod
    def of(cls, data: Dataset, n_queries: int, work: Path, model: Path) -> Scored:
        """Brute force over a data set: over its codes of the 10K subset, and over the others if it has any."""
        tested = data.queries["test"][:n_queries]
        queries, items = [q.text for q in tested], list(data.items.values())
        labels = np.array([data.items[q.item_id] for q in tested], dtype=object)
        measured = np.array([data.item_splits[item_id] != "ce_train" for item_id in data.items])
        exact = np.empty((len(queries), len(items)))
        for name, part in (("10k", measured), ("others", ~measured)):
            if part.any():
                some, scorer = [items[i] for i in np.flatnonzero(part)], OnnxScorer(model)
                exact[:, part] = brute_force(queries, some, scorer, work / f"int8-{name}", f"int8, {name}")
        dense = Dense(OnnxEncoder(demo_folder("encoder"))).prepare(items).scores(queries)
        return cls(queries, items, np.array(items, dtype=object), labels, exact, dense)


def measure_subset(work: Path, model: Path, fp32: Path, n_queries: int) -> dict[str, object]:
    """Brute force, reranking and the dual encoder alone over the 10K subset; int8 against fp32."""
    scored = Scored.of(load_icd10cm_10k(), n_queries, work, model)
    queries, items, texts, labels = scored.queries, scored.items, scored.texts, scored.labels
    exact, dense = scored.exact, scored.dense
    candidates = [np.union1d(top_k(d, 100), top_k(e, 50)) for d, e in zip(dense, exact, strict=True)]
    rng = np.random.default_rng(SEED)
    random = [rng.choice(len(items), 10, replace=False) for _ in queries]
    chosen = [np.union1d(c, r) for c, r in zip(candidates, random, strict=True)]
    pairs = Pairs(np.repeat(np.arange(len(queries)), [len(c) for c in chosen]), np.concatenate(chosen))
    full = np.full(exact.shape, -np.inf)
    full[pairs.query_indices, pairs.item_indices] = collect_scores(
        pairs, queries, items, OnnxScorer(fp32), work / f"fp32-10k-{n_queries}", progress=watch("fp32, candidates")
    )

    reranked = np.full(exact.shape, -np.inf)
    for row, d in enumerate(dense):
        best = top_k(d, 100)
        reranked[row, best] = exact[row, best]
    brute, alone = right_at_top(exact, texts, labels), right_at_top(dense, texts, labels)
    rerank, brute_fp32 = right_at_top(reranked, texts, labels), right_at_top(full, texts, labels)
    at_random = tuple(np.array([(r, c) for r, cs in enumerate(random) for c in cs]).T)
    hard = tuple(np.array([(r, c) for r, cs in enumerate(candidates) for c in cs]).T)
    return {
        "queries": len(queries),
        "items": len(items),
        "accuracy": {
            "brute_force_int8": asdict(paired_interval(brute)),
            "brute_force_fp32_among_candidates": asdict(paired_interval(brute_fp32)),
            "rerank_100": asdict(paired_interval(rerank)),
            "dual_encoder": asdict(paired_interval(alone)),
        },
        "brute_force_minus_dual_encoder": asdict(paired_interval(brute, alone)),
        "brute_force_minus_rerank_100": asdict(paired_interval(brute, rerank)),
        "int8_minus_fp32": asdict(paired_interval(brute, brute_fp32)),
        "spearman_int8_fp32": {
            "random_pairs": correlation_of_ranks(exact[at_random], full[at_random]),
            "hard_pairs": correlation_of_ranks(exact[hard], full[hard]),
            "largest_difference": float(np.abs(exact[hard] - full[hard]).max()),
        },
        "queries_whose_best_two_tie": float(np.mean([_best_two_tie(row, texts) for row in exact])),
        "label_among_best": {
            name: {
                str(k): float(np.mean([label in texts[top_k(s, k)] for s, label in zip(scores, labels, strict=True)]))
                for k in (10, 100)
            }
            for name, scores in (("brute_force", exact), ("dual_encoder", dense))
        },
    }


def measure_all_codes(work: Path, model: Path, n_queries: int) -> dict[str, object]:
    """The same over all codes, for fewer queries."""
    scored = Scored.of(load_icd10cm(), n_queries, work, model)
    brute = right_at_top(scored.exact, scored.texts, scored.labels)
    alone = right_at_top(scored.dense, scored.texts, scored.labels)
    return {
        "queries": len(scored.queries),
        "items": len(scored.items),
        "accuracy": {
            "brute_force_int8": asdict(paired_interval(brute)),
            "dual_encoder": asdict(paired_interval(alone)),
        },
        "brute_force_minus_dual_encoder": asdict(paired_interval(brute, alone)),
    }


def measure_quickly(split: str, model: Path, n_queries: int) -> dict[str, object]:
    """A wide search in place of brute force (400 calls a query for 9,670), against reranking; not for the test split.

    It tells whether far codes rise for no reason, which random codes do not: they are a few in ten thousand. The index
    learns from index-train queries that are not asked here, two calls per code.
    """
    data = load_icd10cm_10k()
    asked = list({q.text: q for q in data.queries[split]}.values())[:n_queries]
    queries, labels = [q.text for q in asked], np.array([data.items[q.item_id] for q in asked], dtype=object)
    others = dict.fromkeys(q.text for q in data.queries["index_train"])
    train = [text for text in others if text not in set(queries)][:500]
    index = Index.build(
        data.items,
        scorer=OnnxScorer(model),
        first_stage=Dense(OnnxEncoder(demo_folder("encoder"))),
        queries=train,
        options=BuildOptions(
            PerQuery(top=20, uniform=20), MFSideInformation(), max_calls=2 * len(data.items), seed=SEED
        ),
        progress=watch(f"{split}, learning"),
    )
    searched, reranked = ([] for _ in range(2))
    for start in range(0, len(queries), 50):
        some = queries[start : start + 50]
        searched += index.search_batch(some, k=1, budget=300, method="bayes")
        reranked += index.search_batch(some, k=1, budget=100, method="rerank")
        watch(f"{split}, queries")(len(searched), len(queries))
    best = [max(s[0], r[0], key=lambda hit: hit.score) for s, r in zip(searched, reranked, strict=True)]
    wide = (np.array([hit.text for hit in best], dtype=object) == labels).astype(float)
    narrow = (np.array([r[0].text for r in reranked], dtype=object) == labels).astype(float)
    return {
        "queries": len(queries),
        "wide_search": asdict(paired_interval(wide)),
        "rerank_100": asdict(paired_interval(narrow)),
        "wide_search_minus_rerank_100": asdict(paired_interval(wide, narrow)),
        "lost": int(np.sum(wide < narrow)),
        "won": int(np.sum(wide > narrow)),
        "best_beyond_rank_100": float(np.mean([hit.first_stage_rank > 100 for hit in best])),
    }


def _best_two_tie(scores: FloatArray, texts: np.ndarray) -> bool:
    best = top_k(scores, 10)
    others = [i for i in best[1:] if texts[i] != texts[best[0]]]
    return bool(others) and scores[others[0]] == scores[best[0]]


def main() -> None:
    """Measure, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the quick measurement alone")
    parser.add_argument(
        "--model", type=Path, default=demo_folder("cross_encoder"), help="the installed one, unless given"
    )
    parser.add_argument("--fp32", type=Path, help="folder of the same model in fp32")
    parser.add_argument("--work", type=Path, help="keeps scores")
    parser.add_argument("--out", type=Path, help="results/demo_model.json or results/demo_model_quick.json beside this")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--all-codes", type=int, default=50, help="queries over all codes; 0 leaves that out")
    args = parser.parse_args()
    if not args.quick and not (args.fp32 and args.work):
        parser.error("--fp32 and --work are needed, or --quick")
    out = args.out or Path(__file__).parent / "results" / f"demo_model{'_quick' if args.quick else ''}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, object] = {
        "environment": environment(),
        "seed": SEED,
        "model": json.loads((args.model / "config.json").read_text()),
    }
    if args.quick:
        result |= {split: measure_quickly(split, args.model, 500) for split in ("dev", "index_train")}
    else:
        result["subset_10k"] = measure_subset(args.work, args.model, args.fp32, args.queries)
        out.write_text(json.dumps(result, indent=2) + "\n")
        if args.all_codes:
            result["all_codes"] = measure_all_codes(args.work, args.model, args.all_codes)
    out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
