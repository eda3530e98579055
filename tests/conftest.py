"""What the tests share: a small world of texts with known scores, and tiny ONNX models whose output is a formula."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from crossknn import BM25, Dense, FunctionScorer, GivenVectors, LateInteraction, WithVectors

settings.register_profile("crossknn", deadline=None, max_examples=40, derandomize=True, database=None)
settings.load_profile("crossknn")

WORDS = ["cat", "dog", "bird", "fish", "water", "brain", "skin", "bone", "a", "b"]


@dataclass
class World:
    """Texts with vectors and CE scores that are known beforehand, and a count of the CE calls made."""

    n_queries: int = 12
    n_items: int = 40
    dimensions: int = 6
    seed: int = 0
    name: str = "world"
    calls: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.queries = [f"query {WORDS[n % 8]} {n}" for n in range(self.n_queries)]
        self.items = [f"item {WORDS[n % 8]} {n}" for n in range(self.n_items)]
        self.query_vectors = rng.normal(size=(self.n_queries, self.dimensions))
        self.item_vectors = rng.normal(size=(self.n_items, self.dimensions))
        hidden = rng.normal(size=(self.n_queries, self.dimensions))
        biases = rng.normal(size=self.n_items)
        self.scores = (self.query_vectors + hidden) @ self.item_vectors.T + biases
        self._row = {text: n for n, text in enumerate(self.queries)}
        self._column = {text: n for n, text in enumerate(self.items)}

    def score_of(self, query: str, item: str) -> float:
        return float(self.scores[self._row[query], self._column[item]])

    def _score(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        self.calls += pairs
        return [self.score_of(q, i) for q, i in pairs]

    @property
    def scorer(self) -> FunctionScorer:
        return FunctionScorer(self._score, name=self.name, batch_size=7)

    @property
    def dense(self) -> Dense:
        texts = self.queries + self.items
        vectors = np.vstack([self.query_vectors, self.item_vectors])
        return Dense(GivenVectors(dict(zip(texts, vectors, strict=True)), name=self.name))

    @property
    def bm25(self) -> BM25:
        return BM25()

    @property
    def late(self) -> WithVectors:
        return self.late_of(10_000)

    def late_of(self, shortlist: int) -> WithVectors:
        return WithVectors(LateInteraction(_Words(), shortlist=shortlist), self.dense)


class _Words:
    """A vector for every word, as far as it is known."""

    fingerprint = "words"

    def embed_tokens(self, texts: Sequence[str]) -> list[np.ndarray]:
        vectors = np.random.default_rng(5).normal(size=(len(WORDS), 9))
        return [vectors[[WORDS.index(word) for word in text.split() if word in WORDS]] for text in texts]


@pytest.fixture(scope="session")
def make_world() -> type[World]:
    return World


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[..., Tokenizer]:
    """A word tokenizer that joins two texts as BERT or RoBERTa does, or does not join them ("none")."""

    def make(style: str = "bert") -> Tokenizer:
        tokens = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]
        tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(tokens)}, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        single, pair = {
            "bert": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
            "roberta": ("[CLS] $A [SEP]", "[CLS] $A [SEP] [SEP] $B [SEP]"),
            "none": ("[CLS] $A [SEP]", "[CLS] $A [SEP]"),
        }[style]
        if style != "none":
            tokenizer.post_processor = processors.TemplateProcessing(
                single=single, pair=pair, special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
            )
        return tokenizer

    return make


@dataclass(frozen=True)
class TinyModels:
    """Writes model folders. The cross-encoder's logit is an integer formula (see ``logit``), so it is exact."""

    make_tokenizer: Callable[..., Tokenizer]

    @staticmethod
    def values(seed: int) -> np.ndarray:
        return np.random.default_rng(seed).integers(-9, 10, 4 + len(WORDS)).astype(np.float32)

    @staticmethod
    def weights(seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        return rng.normal(size=(4 + len(WORDS), 32)).astype("f4"), rng.normal(size=(32, 5)).astype("f4")

    def logit(self, query: str, item: str, *, seed: int = 0, max_length: int = 32, style: str = "bert") -> float:
        """What the model must answer: positions (from 1) times values, ten times as much in the second text."""
        tokenizer = self.make_tokenizer(style)
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        encoding, values = tokenizer.encode(query, item), self.values(seed)
        triples = zip(encoding.ids, encoding.type_ids, range(1, 1000), strict=False)
        return float(sum(values[token] * position * (1 + 9 * kind) for token, kind, position in triples))

    def embedding(self, text: str, *, seed: int = 0, max_length: int = 32) -> np.ndarray:
        """What the encoder must answer: the mean of its tokens' vectors, projected."""
        tokenizer = self.make_tokenizer()
        tokenizer.enable_truncation(max_length)
        table, projection = self.weights(seed)
        return np.mean([table[token] @ projection for token in tokenizer.encode(text).ids], axis=0)

    def cross_encoder(
        self,
        folder: Path,
        *,
        seed: int = 0,
        style: str = "bert",
        n_logits: int = 1,
        external: bool = False,
        states: bool = False,
    ) -> Path:
        """With ``states``, a token's are its value, and in a further output its value as the logit counts it."""
        from onnx import helper

        values = self.values(seed)
        nodes = [
            helper.make_node("Gather", ["values", "input_ids"], ["value"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
            helper.make_node("Cast", ["token_type_ids"], ["kind"], to=1),
            helper.make_node("CumSum", ["mask", "one"], ["position"]),
            helper.make_node("Mul", ["kind", "nine"], ["extra"]),
            helper.make_node("Mul", ["extra", "value"], ["more"]),
            helper.make_node("Add", ["value", "more"], ["typed"]),
            helper.make_node("Mul", ["typed", "position"], ["placed"]),
            helper.make_node("Mul", ["placed", "mask"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "axes"], ["logit"]),
            helper.make_node("Concat", ["logit"] * n_logits, ["logits"], axis=1),
        ]
        constants = {"values": values, "one": np.array(1), "axes": np.array([1]), "nine": np.array(9, dtype="f4")}
        inputs = ("input_ids", "attention_mask", "token_type_ids")
        outputs: dict[str, Any] = {"logits": None}
        if states:
            nodes += [
                helper.make_node("Unsqueeze", [of, "last"], [name])
                for of, name in (("value", "low"), ("typed", "high"))
            ]
            constants["last"] = np.array([-1])
            outputs |= {name: ["n", "length", 1] for name in ("low", "high")}
        return self._write(folder, nodes, constants, inputs, style=style, external=external, outputs=outputs)

    def encoder(
        self, folder: Path, *, seed: int = 0, outputs: Sequence[str] = ("logits",), modules: Sequence[str] = ()
    ) -> Path:
        """``outputs`` may be "logits", pooled, of undeclared shape, and "tokens" and "sentence_embedding", declared."""
        from onnx import helper

        table, projection = self.weights(seed)
        nodes = [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("MatMul", ["rows", "projection"], ["projected"]),
            helper.make_node("Cast", ["attention_mask"], ["flat"], to=1),
            helper.make_node("Unsqueeze", ["flat", "two"], ["mask"]),
            helper.make_node("Mul", ["projected", "mask"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "one"], ["sum"], keepdims=0),
            helper.make_node("ReduceSum", ["mask", "one"], ["count"], keepdims=0),
            helper.make_node("Div", ["sum", "count"], ["mean"]),
        ]
        ends = {
            "logits": (None, "mean"),
            "tokens": (["n", "length", 5], "masked"),
            "sentence_embedding": (["n", 5], "mean"),
        }
        nodes += [helper.make_node("Identity", [ends[name][1]], [name]) for name in outputs]
        constants = {"table": table, "projection": projection, "one": np.array([1]), "two": np.array([2])}
        written = {name: ends[name][0] for name in outputs}
        self._write(folder, nodes, constants, ("input_ids", "attention_mask"), outputs=written)
        if modules:
            paths = [{"type": f"sentence_transformers.models.{m}", "path": f"{n}_{m}"} for n, m in enumerate(modules)]
            (folder / "modules.json").write_text(json.dumps(paths))
        return folder

    def _write(
        self,
        folder: Path,
        nodes: list,
        constants: dict[str, np.ndarray],
        inputs: Sequence[str],
        *,
        style: str = "bert",
        external: bool = False,
        outputs: dict[str, Any] | None = None,
    ) -> Path:
        import onnx
        from onnx import helper, numpy_helper

        graph = helper.make_graph(
            nodes,
            "tiny",
            [helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["n", "length"]) for name in inputs],
            [
                helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
                for name, shape in (outputs or {"logits": None}).items()
            ],
            [numpy_helper.from_array(array, name) for name, array in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        folder.mkdir(parents=True, exist_ok=True)
        kept_outside = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 80}
        onnx.save(model, str(folder / "model.onnx"), **(kept_outside if external else {}))
        self.make_tokenizer(style).save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps({"max_length": 32}))
        return folder


@pytest.fixture(scope="session")
def tiny(make_tokenizer: Callable[..., Tokenizer]) -> TinyModels:
    return TinyModels(make_tokenizer)


@dataclass(frozen=True)
class TinyTorch:
    """Writes folders of tiny, randomly initialised BERT models for sentence-transformers."""

    make_tokenizer: Callable[..., Tokenizer]

    def cross_encoder(self, folder: Path, *, seed: int = 0, n_labels: int = 1) -> Path:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        config = self._config(num_labels=n_labels)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            transformers.BertForSequenceClassification(config).save_pretrained(folder)
        return self._with_tokenizer(folder)

    def encoder(self, folder: Path, *, seed: int = 0) -> Path:
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            transformers.BertModel(self._config()).save_pretrained(folder)
        return self._with_tokenizer(folder)

    def logit(self, folder: Path, query: str, item: str, *, max_length: int = 32) -> float:
        """The pair alone through the bare transformer: no padding, no activation."""
        torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
        tokenizer = self.make_tokenizer()
        tokenizer.enable_truncation(max_length, strategy="longest_first")
        encoding = tokenizer.encode(query, item)
        model = transformers.BertForSequenceClassification.from_pretrained(folder).eval()
        with torch.no_grad():
            ids, kinds = torch.tensor([encoding.ids]), torch.tensor([encoding.type_ids])
            return float(model(input_ids=ids, token_type_ids=kinds).logits[0, 0])

    @staticmethod
    def _config(**more: int) -> Any:
        transformers = pytest.importorskip("transformers")
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        vocabulary = {"vocab_size": 4 + len(WORDS), "max_position_embeddings": 64}
        return transformers.BertConfig(**sizes, **vocabulary, initializer_range=1.0, **more)

    def _with_tokenizer(self, folder: Path) -> Path:
        transformers = pytest.importorskip("transformers")
        names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
        tokenizer = transformers.PreTrainedTokenizerFast(
            tokenizer_object=self.make_tokenizer(),
            model_max_length=32,
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            **names,
        )
        tokenizer.save_pretrained(folder)
        return folder


@pytest.fixture(scope="session")
def tiny_torch(make_tokenizer: Callable[..., Tokenizer]) -> TinyTorch:
    return TinyTorch(make_tokenizer)
