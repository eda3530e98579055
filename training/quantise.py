"""BERT as a small ONNX graph, in fp32 or in int8 with fixed activation scales.

The graph is written by hand, node by node, rather than exported and rewritten: it is some twenty nodes a layer, every
operator is chosen, and no new version of an exporter or optimiser changes it.

Fixed scales, because ONNX Runtime's dynamic quantisation takes a tensor's scale from the whole batch, so that a
pair's score depends on its neighbours and on padding. Here scales are constants measured once on training texts, every
row is computed by itself, and a score is the same in any batch. A few channels of BERT are ten times wider than the
others and would take most of an 8-bit range. Two remedies:

- after a layer norm, *smoothing* (SmoothQuant, arXiv:2211.10438, eq. 4): channels are divided by constants, the
  weights that meet them are multiplied by the same;
- after the GELU, the widest channels are multiplied in fp32 (LLM.int8(), arXiv:2208.07339, with fixed channels).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from crossknn.scorers.base import layers_to_read

Weights = Mapping[str, np.ndarray]
Feeds = Mapping[str, np.ndarray]
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class Shape:
    """The architecture, as in Hugging Face's config.json."""

    layers: int
    heads: int
    hidden: int
    epsilon: float


@dataclass(frozen=True)
class Range:
    """The smallest and largest value each channel of an activation took in calibration; zero is always within."""

    low: np.ndarray  # (channels,)
    high: np.ndarray

    @property
    def widest(self) -> np.ndarray:
        return np.maximum(np.maximum(-self.low, self.high), 1e-6)


@dataclass
class Graph:
    """Nodes and constants, collected in order; each method returns the name of what it adds."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.setdefault(name, numpy_helper.from_array(np.array(value, order="C"), name))
        return name

    def node(self, op: str, *inputs: str, domain: str = "", name: str = "", **attributes: object) -> str:
        name = name or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], name, domain=domain, **attributes))
        return name

    def contrib(self, op: str, *inputs: str, **attributes: object) -> str:
        return self.node(op, *inputs, domain="com.microsoft", **attributes)

    def model(self, outputs: Mapping[str, Sequence[str | int]]) -> onnx.ModelProto:
        """The finished model. Opset 17 and IR 8 are the oldest that have all it needs."""
        ints = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "length"]) for n in INPUTS]
        floats = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs.items()]
        graph = helper.make_graph(self.nodes, "bert", ints, floats, list(self.constants.values()))
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, ir_version=8, opset_imports=opsets, producer_name="crossknn")


class Bert(Graph):
    """BERT in fp32. `weights` has Hugging Face's names without the leading ``bert.``.

    Args:
        weights: parameters by name.
        shape: the architecture.
        max_length: as many positions are kept; a longer input is an error of the runtime.
    """

    def __init__(self, weights: Weights, shape: Shape, max_length: int) -> None:
        super().__init__()
        self.weights, self.shape, self.max_length = weights, shape, max_length
        self.sites: dict[str, str] = {}  # a product's first layer -> its input tensor: what calibration observes

    # -- what the int8 graph does otherwise --------------------------------------------------------------------

    def embed_words(self) -> str:
        return self.node("Gather", self._parameter("embeddings.word_embeddings.weight"), "input_ids")

    def project(self, x: str, *layers: str) -> list[str]:
        """Each of the linear layers applied to x."""
        self.sites[layers[0]] = x
        products = [self.node("MatMul", x, self.constant(f"{n}.T", self.weights[f"{n}.weight"].T)) for n in layers]
        return [
            self.node("Add", product, self._parameter(f"{n}.bias")) for product, n in zip(products, layers, strict=True)
        ]

    # -- the network -------------------------------------------------------------------------------------------

    def embeddings(self) -> str:
        length = self.node("Shape", "input_ids", start=1, end=2)
        first = self.constant("zero", np.array([0]))
        table = self.weights["embeddings.position_embeddings.weight"][: self.max_length]
        positions = self.node("Slice", self.constant("positions", table), first, length, first)
        types = self.node("Gather", self._parameter("embeddings.token_type_embeddings.weight"), "token_type_ids")
        total = self.node("Add", self.node("Add", self.embed_words(), types), positions)
        norm = [self._parameter(f"embeddings.LayerNorm.{n}") for n in ("weight", "bias")]
        return self.node("LayerNormalization", total, *norm, epsilon=self.shape.epsilon)

    def layer(self, index: int, x: str, mask: str, only_first: bool = False, name: str = "") -> str:
        """One transformer layer; with `only_first` its output has the first token alone, (batch, 1, hidden)."""
        at = f"encoder.layer.{index}"
        q, k, v = (f"{at}.attention.self.{n}" for n in ("query", "key", "value"))
        query, key, value = self.project(x, q, k, v)
        context = self.contrib("MultiHeadAttention", query, key, value, "", mask, num_heads=self.shape.heads)
        if only_first:  # after the attention: ONNX Runtime 1.20 forgets the mask when there are fewer queries than keys
            zero, one = self.constant("zero", np.array([0])), self.constant("one", np.array([1]))
            x, context = (self.node("Slice", t, zero, one, one) for t in (x, context))
        (mixed,) = self.project(context, f"{at}.attention.output.dense")
        x = self._add_and_norm(mixed, x, f"{at}.attention.output")
        (inner,) = self.project(x, f"{at}.intermediate.dense")
        (outer,) = self.project(self.contrib("Gelu", inner), f"{at}.output.dense")
        return self._add_and_norm(outer, x, f"{at}.output", name)

    def _add_and_norm(self, new: str, old: str, at: str, name: str = "") -> str:
        """Sum, not Add: the runtime turns Add and a norm into SkipLayerNormalization, several times as slow here."""
        norm = [self._parameter(f"{at}.LayerNorm.{n}") for n in ("weight", "bias")]
        summed = self.node("Sum", new, old)
        return self.node("LayerNormalization", summed, *norm, epsilon=self.shape.epsilon, name=name)

    def _parameter(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    def cross_encoder(self) -> onnx.ModelProto:
        """Output `logits`, (batch, 1), raw, and the states of two layers, which cost nothing where nobody asks.

        The last layer computes the first token alone: nothing else is read.
        """
        read = layers_to_read(self.shape.layers)
        x = self._hidden(only_first=True, named=read)
        x = self.node("Gather", x, self.constant("first", np.array(0)), axis=1)
        for name in ("pooler.dense", "classifier"):
            last = {"name": "logits"} if name == "classifier" else {}
            parameters = [self._parameter(f"{name}.{n}") for n in ("weight", "bias")]
            x = self.node("Gemm", x, *parameters, transB=1, **last)
            x = x if last else self.node("Tanh", x)
        states = {f"states_{layer}": ["batch", "length", self.shape.hidden] for layer in read}
        return self.model({x: ["batch", 1], **states})

    def encoder(self) -> onnx.ModelProto:
        """Output `embedding`, (batch, hidden): the mean over the text's tokens, of length 1 (so a sum does as well)."""
        x = self._hidden()
        one = self.constant("one", np.array([1]))
        mask = self.node("Unsqueeze", self.node("Cast", "attention_mask", to=TensorProto.FLOAT), one)
        total = self.node("Squeeze", self.node("MatMul", mask, x), one)
        return self.model(
            {self.node("LpNormalization", total, axis=-1, p=2, name="embedding"): ["batch", self.shape.hidden]}
        )

    def _hidden(self, only_first: bool = False, named: Sequence[int] = ()) -> str:
        mask = self.node("Cast", "attention_mask", to=TensorProto.INT32)
        x = self.embeddings()
        for index in range(self.shape.layers):
            name = f"states_{index + 1}" if index + 1 in named else ""
            x = self.layer(index, x, mask, only_first=only_first and index + 1 == self.shape.layers, name=name)
        return x


class Int8Bert(Bert):
    """BERT with 6-bit word embeddings (a scale per word) and int8 matrix products (a scale per output channel).

    Args:
        ranges: of the input of each product, by its first layer, as :func:`calibrate` gives them.
        smoothing: how much of the channels' difference in width is moved into the weights after a layer norm.
        fp32_columns: as many of the widest channels after a GELU are multiplied in fp32.
    """

    def __init__(
        self,
        weights: Weights,
        shape: Shape,
        max_length: int,
        ranges: Mapping[str, Range],
        smoothing: float = 0.7,
        fp32_columns: int = 8,
    ) -> None:
        super().__init__(weights, shape, max_length)
        self.ranges, self.smoothing, self.fp32_columns = dict(ranges), smoothing, fp32_columns
        for index in range(shape.layers):
            self._widest_first(f"encoder.layer.{index}")

    def _widest_first(self, at: str) -> None:
        """Sort the channels between the two layers of a feed-forward block: the same function, and a cheap slice."""
        inner, outer = f"{at}.intermediate.dense", f"{at}.output.dense"
        seen, weights = self.ranges[outer], self.weights
        order = np.argsort(-seen.widest, kind="stable")
        self.ranges[outer] = Range(seen.low[order], seen.high[order])
        rows = {f"{inner}.{n}": weights[f"{inner}.{n}"][order] for n in ("weight", "bias")}
        self.weights = {**weights, **rows, f"{outer}.weight": weights[f"{outer}.weight"][:, order]}

    def embed_words(self) -> str:
        """Gather packed rows, unpack them (see :func:`pack_words`), scale them."""
        packed, scales = pack_words(self.weights["embeddings.word_embeddings.weight"])
        two, six = (self.constant(f"shift{n}", np.array(n, np.uint8)) for n in (2, 6))
        rows = self.node("Gather", self.constant("words", packed), "input_ids")
        low = self.node("BitShift", self.node("BitShift", rows, two, direction="LEFT"), two, direction="RIGHT")
        high = self.node("Cast", self.node("BitShift", rows, six, direction="RIGHT"), to=TensorProto.FLOAT)
        digits = self.constant("digits", np.array([[1], [4], [16]], np.float32))
        shape = self.constant("three_parts", np.array([0, 0, 3, -1]))
        last = self.node("Mul", self.node("Reshape", high, shape), digits)
        last = self.node("ReduceSum", last, self.constant("two", np.array([2])), keepdims=0)
        values = self.node("Concat", self.node("Cast", low, to=TensorProto.FLOAT), last, axis=-1)
        values = self.node("Sub", values, self.constant("words.zero", np.float32(32)))
        return self.node("Mul", values, self.node("Gather", self.constant("words.scale", scales), "input_ids"))

    def project(self, x: str, *layers: str) -> list[str]:
        self.sites[layers[0]] = x
        seen = self.ranges[layers[0]]
        matrices = [self.weights[f"{n}.weight"].T for n in layers]
        if ".attention.self." in layers[0] or ".intermediate." in layers[0]:
            divisor = smoothing_divisor(seen, matrices, self.smoothing)
            x = self.node("Mul", x, self.constant(f"{layers[0]}.smooth", 1 / divisor))
            seen = Range(seen.low / divisor, seen.high / divisor)
            matrices = [m * divisor[:, None] for m in matrices]
        elif ".attention." not in layers[0]:
            return [self._mixed(x, layers[0], matrices[0], seen)]
        return self._products(x, layers, matrices, seen)

    def _mixed(self, x: str, layer: str, matrix: np.ndarray, seen: Range) -> str:
        """The first and widest columns of x in fp32, the others in int8."""
        rest = (np.arange(len(matrix)) >= self.fp32_columns).astype(np.float32)
        bounds = {"zero": 0, "fp32_columns": self.fp32_columns, "last_axis": -1}
        columns = self.node("Slice", x, *(self.constant(n, np.array([v])) for n, v in bounds.items()))
        exact = self.node("MatMul", columns, self.constant(f"{layer}.fp32", matrix[: self.fp32_columns]))
        narrow = Range(seen.low * rest, seen.high * rest)
        return self.node("Add", *self._products(x, [layer], [matrix * rest[:, None]], narrow), exact)

    def _products(self, x: str, layers: Sequence[str], matrices: Sequence[np.ndarray], seen: Range) -> list[str]:
        low, high = float(seen.low.min()), float(seen.high.max())
        step = (high - low) / 255
        scale = self.constant(f"{layers[0]}.x_scale", np.float32(step))
        zero = self.constant(f"{layers[0]}.x_zero", np.uint8(round(-low / step)))
        quantised = self.node("QuantizeLinear", x, scale, zero)
        products = []
        for layer, matrix in zip(layers, matrices, strict=True):
            ints, steps = quantise_matrix(matrix)
            constants = self.constant(f"{layer}.int8", ints), scale, self.constant(f"{layer}.scale", steps), zero
            bias = self._parameter(f"{layer}.bias")
            products.append(self.contrib("MatMulIntegerToFloat", quantised, *constants, "", bias))
        return products


def pack_words(table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Word embeddings in 6 bits: (words, 3/4 of the width) bytes and (words, 1) scales.

    The first three quarters of a row stand in the low six bits of the bytes. The last quarter, in base 4, stands in
    the high two bits: its lowest digit in the first third of the bytes, its highest in the last.
    """
    widest = np.maximum(np.abs(table).max(1, keepdims=True), 1e-12)
    best, least = widest / 31, np.full(widest.shape, np.inf)
    for part in (1.0, 0.9, 0.8, 0.7):  # cutting off a row's widest values may cost less than coarser steps
        scales = (widest * part / 31).astype(np.float32)
        lost = ((_six_bits(table, scales) * scales - table) ** 2).sum(1, keepdims=True)
        best, least = np.where(lost < least, scales, best), np.minimum(lost, least)
    first, last = np.split((_six_bits(table, best) + 32).astype(np.uint8), [table.shape[1] // 4 * 3], axis=1)
    digits = np.concatenate([last & 3, last >> 2 & 3, last >> 4], axis=1)
    return first | digits << 6, best


def _six_bits(table: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return np.clip(np.round(table / scales), -32, 31)


def quantise_matrix(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """int8 values (inputs, outputs) and a scale per output.

    x86 processors with AVX2 but without VNNI multiply bytes with an instruction that adds two neighbouring products
    (unsigned times signed) in 16 bits and saturates. The scale is so large that this cannot happen: two neighbours of
    one sign add up to at most 128, and 255 * 128 < 2**15. That costs half a bit; 7-bit weights would cost a whole one.
    """
    pairs = matrix.reshape(-1, 2, matrix.shape[1])
    same_sign = np.maximum(np.maximum(pairs, 0).sum(1), np.maximum(-pairs, 0).sum(1)).max(0)
    # 127, not 128: both of a pair may be rounded up by a half
    scales = np.maximum(np.maximum(np.abs(matrix).max(0), same_sign) / 127, 1e-12).astype(np.float32)
    return np.round(matrix / scales).astype(np.int8), scales


def smoothing_divisor(seen: Range, matrices: Iterable[np.ndarray], strength: float) -> np.ndarray:
    """By what to divide each channel so that wide channels of x meet weights a little wider, not x a lot."""
    weights = np.max([np.abs(m).max(1) for m in matrices], axis=0)
    return (seen.widest**strength / np.maximum(weights, 1e-6) ** (1 - strength)).astype(np.float32)


def calibrate(bert: Bert, model: onnx.ModelProto, batches: Iterable[Feeds], threads: int) -> dict[str, Range]:
    """The range of every product's input over batches of texts, padding left out.

    Args:
        bert: the fp32 builder that made `model`.
        model: the fp32 model; not changed.
        batches: inputs of the model.
        threads: for the runtime.
    """
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    observed.graph.output.extend(helper.make_tensor_value_info(x, TensorProto.FLOAT, None) for x in bert.sites.values())
    session = open_session(observed, threads)
    ranges: dict[str, Range] = {}
    for feeds in batches:
        mask = feeds["attention_mask"].astype(bool)
        for layer, values in zip(bert.sites, session.run(list(bert.sites.values()), dict(feeds)), strict=True):
            rows = values[mask] if values.shape[1] == mask.shape[1] else values[:, 0]
            low, high = np.minimum(rows.min(0), 0), np.maximum(rows.max(0), 0)
            old = ranges.get(layer, Range(low, high))
            ranges[layer] = Range(np.minimum(low, old.low), np.maximum(high, old.high))
    return ranges


def open_session(model: onnx.ModelProto, threads: int) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
