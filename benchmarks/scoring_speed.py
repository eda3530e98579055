"""How fast are pairs scored? Our ONNX scorer against sentence-transformers and FlashRank, same model and pairs.

    python benchmarks/scoring_speed.py --model training/runs/demo/model --fp32 training/runs/demo/fp32

Needs the extras torch, icd10cm, hpo and demo; FlashRank takes part where it is installed (`pip install flashrank`).
With `--device cuda` the scorers run there too, in fp32 and half precision, compared with the rival on the CPU.
Every contestant scores the same pairs in turn, round after round, so that a busy machine is busy for all; a ratio is
the median over rounds of the ratios within one round. Pairs: dev queries with random items, each query with as many.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from environment import environment

from crossknn.arrays import FloatArray, IntArray
from crossknn.cli.models import demo_folder
from crossknn.datasets.hpo import load_hpo
from crossknn.datasets.icd10cm import load_icd10cm_10k
from crossknn.datasets.splits import Dataset
from crossknn.onnx_model import OnnxOptions
from crossknn.scorers import OnnxScorer, Scorer, SentenceTransformersScorer

RIVAL = "sentence-transformers fp32"
MAX_LENGTH = 128


@dataclass(frozen=True)
class Pairs:
    """Queries, each with the same number of items of its own."""

    queries: list[str]
    items: list[str]
    query_indices: IntArray
    item_indices: IntArray


def drawn_pairs(sets: list[Dataset], n_queries: int, per_query: int, rng: np.random.Generator) -> Pairs:
    """Dev queries in equal parts from each data set, items at random from all of them."""
    queries = [q.text for data in sets for q in data.queries["dev"][: n_queries // len(sets)]]
    pool = [text for data in sets for text in rng.permutation(np.array(list(data.items.values()), dtype=object))[:4000]]
    chosen = rng.integers(len(pool), size=len(queries) * per_query)
    return Pairs(queries, pool, np.repeat(np.arange(len(queries)), per_query), chosen)


class FlashRank:
    """FlashRank's runtime over our fp32 model: it takes a folder by the name of one of its own models."""

    def __init__(self, fp32: Path, model: Path, folder: Path) -> None:
        from flashrank import Ranker
        from flashrank.Config import model_file_map

        name = "ms-marco-MiniLM-L-12-v2"
        place = folder / name
        place.mkdir(parents=True)
        shutil.copy(fp32 / "model.onnx", place / model_file_map[name])
        for file in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(model / file, place / file)
        special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
        (place / "special_tokens_map.json").write_text(json.dumps(special))
        self._ranker = Ranker(model_name=name, cache_dir=str(folder), max_length=MAX_LENGTH)

    def score(self, pairs: Pairs) -> FloatArray:
        """Sigmoids of the logits, in the order of the pairs."""
        from flashrank import RerankRequest

        scores = np.empty(len(pairs.item_indices))
        for n, query in enumerate(pairs.queries):
            rows = np.flatnonzero(pairs.query_indices == n)
            passages = [{"id": int(row), "text": pairs.items[pairs.item_indices[row]]} for row in rows]
            for found in self._ranker.rerank(RerankRequest(query=query, passages=passages)):
                scores[found["id"]] = found["score"]
        return scores


def contestants(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[Pairs], FloatArray]]:
    """Name to a function that scores pairs. Ours prepares its items inside: tokenising is paid for by all."""

    def ours(scorer: Scorer) -> Callable[[Pairs], FloatArray]:
        return lambda p: scorer.prepare(p.items).score(p.queries, p.query_indices, p.item_indices)

    # the library's default batch; cut where the exported models are cut, so that all score the same tokens
    rival = SentenceTransformersScorer(args.model, device="cpu", batch_size=32, max_length=MAX_LENGTH)
    found = {
        RIVAL: ours(rival),
        "crossknn fp32": ours(OnnxScorer(args.fp32, OnnxOptions())),
        "crossknn int8": ours(OnnxScorer(demo_folder("cross_encoder"))),
    }
    if args.device:
        found[f"crossknn fp32 on {args.device}"] = ours(OnnxScorer(args.fp32, OnnxOptions(device=args.device)))
        for dtype in ("float32", "float16", "bfloat16"):
            there = SentenceTransformersScorer(args.model, device=args.device, dtype=dtype, max_length=MAX_LENGTH)
            found[f"crossknn's sentence-transformers scorer, {dtype} on {args.device}"] = ours(there)
    try:
        found["flashrank fp32"] = FlashRank(args.fp32, args.model, folder).score
    except ImportError:
        print("flashrank is not installed: left out")
    return found


def measure(runs: dict[str, Callable[[Pairs], FloatArray]], pairs: Pairs, rounds: int) -> dict[str, object]:
    """Medians, ratios to the rival, and how well the scores agree with its."""
    n, seconds = len(pairs.item_indices), {name: np.empty(rounds) for name in runs}
    scores = {name: run(pairs) for name, run in runs.items()}  # warm-up
    for number in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(pairs)
            seconds[name][number] = time.perf_counter() - start
    logits = scores[RIVAL]
    return {
        "pairs": n,
        "characters_per_pair": float(
            np.mean([len(pairs.items[i]) for i in pairs.item_indices])
            + np.mean([len(pairs.queries[q]) for q in pairs.query_indices])
        ),
        "pairs_per_second": {name: float(n / np.median(s)) for name, s in seconds.items()},
        "ratio_to_rival": {name: float(np.median(seconds[RIVAL] / s)) for name, s in seconds.items() if name != RIVAL},
        "largest_difference_fp32": float(np.abs(scores["crossknn fp32"] - logits).max()),
        "spearman_int8": float(np.corrcoef(_ranks(scores["crossknn int8"]), _ranks(logits))[0, 1]),
        "elsewhere": {
            name: {
                "largest_difference": float(np.abs(found - logits).max()),
                "spearman": float(np.corrcoef(_ranks(found), _ranks(logits))[0, 1]),
            }
            for name, found in scores.items()
            if " on " in name
        },
    }


def _ranks(values: FloatArray) -> IntArray:
    return np.argsort(np.argsort(values))


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model as transformers saves it")
    parser.add_argument("--fp32", type=Path, required=True, help="the same exported to ONNX in fp32")
    parser.add_argument("--device", help="where the scorers run besides, such as cuda")
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--per-query", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scoring_speed.json")
    args = parser.parse_args()
    icd, hpo, rng = load_icd10cm_10k(), load_hpo(), np.random.default_rng(args.seed)
    kinds = {"short": [icd], "long": [hpo], "mixed": [icd, hpo]}
    with tempfile.TemporaryDirectory() as folder:
        runs = contestants(args, Path(folder))
        result = {
            "environment": environment(),
            "seed": args.seed,
            "rounds": args.rounds,
            "options": asdict(OnnxOptions()),
            "max_length": MAX_LENGTH,
            "lengths": {
                kind: measure(runs, drawn_pairs(sets, args.queries, args.per_query, rng), args.rounds)
                for kind, sets in kinds.items()
            },
        }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
