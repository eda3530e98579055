"""What does a search cost beside the cross-encoder's calls, and what do queries gain by sharing rounds?

    python benchmarks/search_speed.py

Three measurements, each a JSON entry:

- *batch*: `search_batch` of 64 queries against as many single searches, on a scorer with a fixed latency per call of
  the model (what a GPU or a service behind a network looks like) and on the demo's model; in turns, medians.
- *overhead*: seconds per query by part, without the scorer, at 1K to 1M items (unit vectors made up, 384 wide; no text
  is read), each size in a process of its own.
- *memory*: that process' largest resident size, and what its vectors alone take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
from environment import environment

from crossknn import AXN, Dense, FunctionScorer, Index, OnnxEncoder, OnnxScorer
from crossknn.arrays import FloatArray
from crossknn.cli.models import demo_folder
from crossknn.datasets.icd10cm import load_icd10cm_10k
from crossknn.results import SearchResult

WIDTH = 384
N_QUERIES = 64


class MadeUpVectors:
    """An encoder that draws a text's unit vector from the text: no model runs."""

    fingerprint = "made-up"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, WIDTH) float32."""
        seed = len(texts) if len(texts) > 1 else int(texts[0].rpartition(" ")[2])  # the items come all at once
        vectors = np.random.default_rng(seed).standard_normal((len(texts), WIDTH), dtype=np.float32)
        vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
        return vectors


def latency_scorer(seconds: float) -> FunctionScorer:
    """Each call of the model takes the same time, whatever its batch (up to 1,024 pairs)."""

    def score(pairs: Sequence[tuple[str, str]]) -> list[float]:
        time.sleep(seconds)
        return [(hash(pair) % 1000) / 100 for pair in pairs]

    return FunctionScorer(score, name="latency")


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
    before = _resident_megabytes()
    items = {str(n): f"item {n}" for n in range(n_items)}
    scorer = FunctionScorer(lambda pairs: [(hash(p) % 1000) / 100 for p in pairs], name="hash")
    index = Index.build(items, scorer=scorer, first_stage=Dense(MadeUpVectors()))
    queries = [f"query {n}" for n in range(8)]
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
    return {
        "items": n_items,
        "queries_in_the_batch": len(queries),
        "milliseconds_per_query": {name: 1000 * median(values) for name, values in parts.items()},
        "megabytes": {
            "vectors": n_items * WIDTH * 4 / 1e6,
            "process_before": before,
            "process_at_most": _resident_megabytes(),
        },
    }


def _resident_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 47_000, 250_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search_speed.json")
    args = parser.parse_args()
    if args.only_size:
        print(json.dumps(measure_overhead(args.only_size, args.rounds)))
        return
    sizes = []
    for size in args.sizes:
        command = [sys.executable, __file__, "--only-size", str(size), "--rounds", str(args.rounds)]
        sizes.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(json.dumps(sizes[-1]), flush=True)
    result = {"environment": environment(), "overhead": sizes, "batch": measure_batches(args.rounds)}
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["batch"], indent=2))


if __name__ == "__main__":
    main()
