"""What does a search cost beside the cross-encoder's calls, and what do queries gain by sharing rounds?

    python benchmarks/search_speed.py --tokens MODEL

Three measurements, each a JSON entry (`--part` makes one of them anew):

- *batch*: `search_batch` of 64 queries against as many single searches, on a scorer with a fixed latency per call of
  the model (what a GPU or a service behind a network looks like) and on the demo's model; in turns, medians.
- *overhead*: seconds per query by part, without the scorer, at 1K to 1M items, each size in a process of its own: codes
  of ICD-10-CM as far as they go (46,881; vectors by the demo's encoder), unit vectors made up above; 384 wide. Queries'
  vectors are known beforehand. Eight queries in a batch, and one alone; and the process' largest resident size.
- *against plain search*: everything but the calls, for a query alone over all codes of ICD-10-CM with a budget of 100,
  as a multiple of what five rounds cannot do without: the query's embedding, five times ``V @ u`` with an argpartition.
  With `--tokens`, a sentence-transformers model, also with late interaction between its tokens (extra `torch`).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
import zlib
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from environment import environment

from crossknn import (
    AXN,
    BuildOptions,
    Dense,
    FunctionScorer,
    GivenVectors,
    Hybrid,
    Index,
    LateInteraction,
    OnnxEncoder,
    OnnxScorer,
    SentenceTransformersEncoder,
    WithVectors,
)
from crossknn.arrays import FloatArray
from crossknn.cli.models import demo_folder
from crossknn.datasets.icd10cm import load_icd10cm, load_icd10cm_10k
from crossknn.factorization import MFSideInformation
from crossknn.results import SearchResult

WIDTH = 384
N_QUERIES = 64
N_TIMED = 8
SEED = 0


def made_up(n: int, seed: int) -> FloatArray:
    """(n, WIDTH) float32 random unit vectors."""
    vectors = np.random.default_rng((SEED, seed)).standard_normal((n, WIDTH), dtype=np.float32)
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return vectors


def texts_and_vectors(n_items: int) -> tuple[list[str], FloatArray, FloatArray]:
    """Item texts, their vectors, and those of N_TIMED queries: real ones where there are so many codes."""
    data = load_icd10cm()
    if n_items > len(data.items):
        return [f"item {n}" for n in range(n_items)], made_up(n_items, 0), made_up(N_TIMED, 1)
    encoder, texts = OnnxEncoder(demo_folder("encoder")), list(data.items.values())
    chosen = np.sort(np.random.default_rng(SEED).permutation(len(texts))[:n_items])
    items = [texts[n] for n in chosen]
    return items, encoder.embed(items), encoder.embed([q.text for q in data.queries["dev"][:N_TIMED]])


def latency_scorer(seconds: float) -> FunctionScorer:
    """Each call of the model takes the same time, whatever its batch (up to 1,024 pairs)."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        time.sleep(seconds)
        return [zlib.crc32(repr(pair).encode()) % 1000 / 100 for pair in pairs]

    return FunctionScorer(score, name="latency")


def hash_scorer() -> FunctionScorer:
    """Scores of no meaning, in no time."""
    return FunctionScorer(lambda pairs: [zlib.crc32(repr(p).encode()) % 1000 / 100 for p in pairs], name="hash")


def batch_against_single(index: Index, queries: list[str], rounds: int) -> dict[str, float]:
    """Ratio of the throughputs, in turns; and whether the answers are the same."""
    ratios, rates = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        together = index.search_batch(queries, k=10, budget=100)
        middle = time.perf_counter()
        alone = [index.search(query, k=10, budget=100) for query in queries]
        end = time.perf_counter()
        assert [_ids(r) for r in together] == [_ids(r) for r in alone]
        ratios.append((end - middle) / (middle - start))
        rates.append(len(queries) / (middle - start))
    return {"ratio": median(ratios), "queries_per_second_in_batch": median(rates)}


def _ids(result: SearchResult) -> list[str]:
    return [hit.id for hit in result]


def measure_batches(rounds: int) -> dict[str, object]:
    """The fixed latency, and the demo's model, over ICD-10-CM's measuring subset."""
    data = load_icd10cm_10k()
    queries = [q.text for q in data.queries["dev"][:N_QUERIES]]
    encoder = OnnxEncoder(demo_folder("encoder"))
    vectors = encoder.embed(list(data.items.values()))
    first_stage = Dense(encoder, vectors)
    latency, demo = latency_scorer(0.02), OnnxScorer(demo_folder("cross_encoder"))
    return {
        "queries": len(queries),
        "items": len(vectors),
        "budget": 100,
        "rounds_of_the_search": AXN().rounds,
        "latency of 20 ms a call": batch_against_single(
            Index.build(data.items, scorer=latency, first_stage=first_stage), queries, rounds
        ),
        "demo": batch_against_single(Index.build(data.items, scorer=demo, first_stage=first_stage), queries, rounds),
    }


def measure_overhead(n_items: int, rounds: int) -> dict[str, object]:
    """Seconds per query by part for this many items; call it in a process of its own, memory is the process'."""
    texts, item_vectors, query_vectors = texts_and_vectors(n_items)
    before = _resident_megabytes()
    queries = [f"query {n}" for n in range(N_TIMED)]
    encoder = GivenVectors(dict(zip(queries, query_vectors, strict=True)), name="given")
    index = Index.build(texts, scorer=hash_scorer(), first_stage=Dense(encoder, item_vectors))
    return {
        "items": n_items,
        "vectors": "made up" if texts[0] == "item 0" else "ICD-10-CM",
        "milliseconds_per_query": {
            f"{n} in a batch" if n > 1 else "alone": timed(index, queries[:n], rounds) for n in (1, N_TIMED)
        },
        "megabytes": {
            "vectors": n_items * WIDTH * 4 / 1e6,
            "process_before": before,
            "process_at_most": _resident_megabytes(),
        },
    }


def against_plain_search(rounds: int, tokens: str | None) -> dict[str, object]:
    """Ratios by method, in turns for each query, medians; the core's bar is 2 (R = 5), that of the `bayes` ones 6."""
    data, encoder = load_icd10cm(), OnnxEncoder(demo_folder("encoder"))
    scorer = OnnxScorer(demo_folder("cross_encoder"))  # how far a query's vector moves depends on the scores
    texts = list(data.items.values())
    vectors = encoder.embed(texts)
    index = Index.build(texts, scorer=scorer, first_stage=Dense(encoder, vectors))
    train = [q.text for q in data.queries["index_train"][:100]]
    hybrid = Index.build(texts, scorer=scorer, first_stage=Hybrid(encoder, vectors))
    options = BuildOptions(factorization=MFSideInformation())
    learned, of_both = (some.learn(train, options) for some in (index, hybrid))
    searched = {
        "axn-paper": ("axn-paper", index),
        "axn-r5": ("axn-r5", index),
        "axn": ("axn", index),
        "bayes": ("bayes", learned),
        "bayes-ucb": ("bayes-ucb", learned),
        "bayes-ucb-r50": ("bayes-ucb-r50", learned),
        "bayes/hybrid": ("bayes", of_both),
        "bayes-ucb/hybrid": ("bayes-ucb", of_both),
    }
    if tokens is not None:
        late = WithVectors(LateInteraction(SentenceTransformersEncoder(tokens, device="cpu")), Hybrid(encoder, vectors))
        of_all = Index.build(texts, scorer=scorer, first_stage=late).learn(train, options)
        searched |= {f"{method}/late": (method, of_all) for method in ("bayes", "bayes-ucb")}
    plain: list[float] = []
    ratios: dict[str, list[float]] = {name: [] for name in searched}
    for query in [q.text for q in data.queries["dev"][: N_TIMED * rounds]]:
        start = time.perf_counter()
        (vector,) = encoder.embed([query])
        for _ in range(5):
            np.argpartition(vectors @ vector, -20)[-20:]
        plain.append(time.perf_counter() - start)
        for name, (method, by) in searched.items():
            start = time.perf_counter()
            result = by.search(query, k=10, budget=100, method=method)
            calls = sum(cost.score_seconds for cost in result.trace)
            ratios[name].append((time.perf_counter() - start - calls) / plain[-1])
    return {
        "items": len(texts),
        "budget": 100,
        "plain_milliseconds": 1000 * median(plain),
        "ratio": {name: median(values) for name, values in ratios.items()},
    }


def timed(index: Index, queries: list[str], rounds: int) -> dict[str, float]:
    """Milliseconds per query by part, medians."""
    parts: dict[str, list[float]] = {name: [] for name in ("first_stage", "fit", "retrieve", "rest")}
    for _ in range(rounds):
        start = time.perf_counter()
        index.task(queries)
        first_stage = (time.perf_counter() - start) / len(queries)
        start = time.perf_counter()
        results = index.search_batch(queries, k=10, budget=100)
        whole = (time.perf_counter() - start) / len(queries)
        trace = results[0].trace
        fit, retrieve = sum(c.solve_seconds for c in trace), sum(c.retrieve_seconds for c in trace)
        rest = whole - first_stage - fit - retrieve - sum(c.score_seconds for c in trace)
        for name, seconds in zip(parts, (first_stage, fit, retrieve, rest), strict=True):
            parts[name].append(seconds)
    return {name: 1000 * median(values) for name, values in parts.items()}


def _resident_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 46_881, 250_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", help="name or folder of a sentence-transformers model, for late interaction")
    parser.add_argument("--part", choices=("overhead", "against_plain_search", "batch"), help="all unless given")
    parser.add_argument("--only-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_speed.json")
    args = parser.parse_args()
    if args.only_size:
        print(json.dumps(measure_overhead(args.only_size, args.rounds)))
        return

    def overhead() -> dict[str, object]:
        sizes = []
        for size in args.sizes:
            command = [sys.executable, __file__, "--only-size", str(size), "--rounds", str(args.rounds)]
            sizes.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
            print(json.dumps(sizes[-1]), flush=True)
        return {"sizes": sizes}

    parts = {
        "overhead": overhead,
        "against_plain_search": lambda: against_plain_search(args.rounds, args.tokens),
        "batch": lambda: measure_batches(args.rounds),
    }
    result = json.loads(args.out.read_text()) if args.part and args.out.exists() else {}
    for name in [args.part] if args.part else parts:
        result[name] = parts[name]() | {"environment": environment(), "seed": SEED, "rounds": args.rounds}
        print(json.dumps(result[name], indent=2), flush=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
