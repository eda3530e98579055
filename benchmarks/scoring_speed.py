"""How fast are pairs scored? Our scorers against sentence-transformers and FlashRank, same model and pairs.

    python benchmarks/scoring_speed.py --model training/runs/demo/model --fp32 training/runs/demo/fp32
    python benchmarks/scoring_speed.py --model training/runs/demo/model --device cuda --kind short --kind joined \\
        --per-query 500 --rounds 3 --out benchmarks/results/scoring_speed_cuda.json
    python benchmarks/scoring_speed.py --model training/runs/demo/model --random 24x1024 --device cuda --kind short \\
        --kind joined --queries 10 --per-query 200 --rounds 3 --out benchmarks/results/scoring_speed_cuda_24x1024.json

Needs the extras torch, icd10cm, demo, and hpo for the kinds long and mixed; FlashRank takes part where it is installed
(`pip install flashrank`), and ONNX on a device where onnxruntime can use it. Every contestant scores the same pairs in
turn, round after round, so that a busy machine is busy for all; a ratio is the median over rounds of the ratios within
one round. Tokenising is paid for by all. Pairs: dev queries with random items, each query with as many; "joined" has
ten codes' texts in an item, made up to be as long as a passage.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from environment import environment

from crossknn.arrays import FloatArray, IntArray
from crossknn.cli.models import demo_folder
from crossknn.datasets.hpo import load_hpo
from crossknn.datasets.icd10cm import load_icd10cm_10k
from crossknn.datasets.splits import Dataset
from crossknn.errors import MissingExtraError
from crossknn.onnx_model import OnnxOptions
from crossknn.scorers import OnnxScorer, Scorer, SentenceTransformersScorer

RIVAL = "sentence-transformers float32"
MAX_LENGTH = 128
JOINED = 10


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


def random_model(model: Path, size: str, folder: Path) -> Path:
    """A BERT of ``LAYERSxWIDTH`` with random weights, which take as long as trained ones, and the model's tokenizer."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    layers, width = map(int, size.split("x"))
    torch.manual_seed(0)
    config = BertConfig(
        num_hidden_layers=layers,
        hidden_size=width,
        num_attention_heads=width // 64,
        intermediate_size=4 * width,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder / size)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(model / file, folder / size)
    return folder / size


def by_predict(args: argparse.Namespace, dtype: str, batch_size: int) -> Callable[[Pairs], FloatArray]:
    """The rival as its users call it, cut where the exported models are cut, so that all score the same tokens."""
    import torch
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(str(args.model), device=args.device, max_length=MAX_LENGTH, model_kwargs={"dtype": dtype})

    def score(pairs: Pairs) -> FloatArray:
        cells = zip(pairs.query_indices, pairs.item_indices, strict=True)
        texts = [[pairs.queries[q], pairs.items[i]] for q, i in cells]
        return model.predict(texts, batch_size=batch_size, activation_fn=torch.nn.Identity(), show_progress_bar=False)

    return score


def contestants(args: argparse.Namespace, folder: Path) -> dict[str, Callable[[Pairs], FloatArray]]:
    """Name to a function that scores pairs. Ours prepares its items inside: tokenising is paid for by all."""

    def ours(scorer: Scorer) -> Callable[[Pairs], FloatArray]:
        return lambda p: scorer.prepare(p.items).score(p.queries, p.query_indices, p.item_indices)

    found = {RIVAL: by_predict(args, "float32", 32)}  # its default batch
    dtypes = ["float32"] if args.device == "cpu" else ["float32", "float16", "bfloat16"]
    if args.device != "cpu":
        found |= {f"sentence-transformers {dtype}, batches of 1024": by_predict(args, dtype, 1024) for dtype in dtypes}
    for dtype in dtypes:
        scorer = SentenceTransformersScorer(args.model, device=args.device, dtype=dtype, max_length=MAX_LENGTH)
        found[f"crossknn, torch, {dtype}"] = ours(scorer)
    if args.fp32:
        try:
            found["crossknn, ONNX, fp32"] = ours(OnnxScorer(args.fp32, OnnxOptions(device=args.device)))
        except MissingExtraError as error:
            print(f"left out: {error}")
    if args.device == "cpu":
        found["crossknn, ONNX, int8"] = ours(OnnxScorer(demo_folder("cross_encoder")))
        if args.fp32 and importlib.util.find_spec("flashrank"):
            found["flashrank fp32"] = FlashRank(args.fp32, args.model, folder).score
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
        "agreement": {  # FlashRank has sigmoids, whose order alone can be compared
            name: {
                "largest_difference": None if "flashrank" in name else float(np.abs(found - logits).max()),
                "spearman": float(np.corrcoef(_ranks(found), _ranks(logits))[0, 1]),
            }
            for name, found in scores.items()
            if name != RIVAL
        },
    }


def _ranks(values: FloatArray) -> IntArray:
    return np.argsort(np.argsort(values))


def data_of(kind: str) -> list[Dataset]:
    """Queries and items of a kind of pairs."""
    if kind == "short":
        return [load_icd10cm_10k()]
    if kind == "joined":
        data = load_icd10cm_10k()
        texts = list(data.items.values())
        joined = [". ".join(texts[n : n + JOINED]) for n in range(0, len(texts), JOINED)]
        return [replace(data, items={str(n): text for n, text in enumerate(joined)})]
    return [load_hpo()] if kind == "long" else [load_icd10cm_10k(), load_hpo()]


def main() -> None:
    """Measure, print, and write one JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="the fine-tuned model as transformers saves it")
    parser.add_argument("--random", metavar="LAYERSxWIDTH", help="random weights of this size in place of the model's")
    parser.add_argument("--fp32", type=Path, help="the same exported to ONNX in fp32")
    parser.add_argument("--device", default="cpu", help="where all of them run, such as cuda")
    parser.add_argument(
        "--kind",
        action="append",
        choices=["short", "long", "mixed", "joined"],
        help="short, long and mixed unless given",
    )
    parser.add_argument("--queries", type=int, default=20)
    parser.add_argument("--per-query", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "scoring_speed.json")
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        if args.random:
            args.model = random_model(args.model, args.random, Path(folder))
        runs = contestants(args, Path(folder))
        result = {
            "environment": environment() | on_device(args.device),
            "seed": args.seed,
            "rounds": args.rounds,
            "random_weights": args.random,
            "max_length": MAX_LENGTH,
            "lengths": {
                kind: measure(runs, drawn_pairs(data_of(kind), args.queries, args.per_query, rng), args.rounds)
                for kind in args.kind or ("short", "long", "mixed")
            },
        }
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def on_device(device: str) -> dict[str, object]:
    """What torch runs on."""
    import sentence_transformers
    import torch

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    return {"torch": torch.__version__, "sentence_transformers": sentence_transformers.__version__, "device": name}


if __name__ == "__main__":
    main()
