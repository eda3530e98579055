"""A transformer in ONNX with its tokenizer: what the ONNX scorer and the ONNX encoder share."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, MissingExtraError
from crossknn.fingerprints import digest_file

_Json = TypeVar("_Json", dict[str, Any], list[Any])

_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
    "coreml": ["CoreMLExecutionProvider", "CPUExecutionProvider"],
}

_POOLED = "sentence_embedding"
"""Output of a sentence-transformers model exported as a whole, behind that of its tokens."""


@dataclass(frozen=True)
class OnnxOptions:
    """How an ONNX model is found and run.

    Attributes:
        file: the model inside its folder; precision is chosen here (fp32, fp16 or int8 are different files).
        max_length: tokens of a whole input, special ones included; None reads the folder's config.
        batch_size: inputs per run; None takes 16 on a CPU (what its caches hold), 128 elsewhere. Inputs are sorted by
            length first, so little is padded.
        device: "cpu", "cuda", "tensorrt" or "coreml".
        threads: batches run at the same time on a CPU, each on one core (a batch of short texts does not fill more);
            0 takes every core.
    """

    file: str = "model.onnx"
    max_length: int | None = None
    batch_size: int | None = None
    device: str = "cpu"
    threads: int = 0

    def __post_init__(self) -> None:
        if self.device not in _PROVIDERS:
            raise InputError(f"device must be one of {', '.join(_PROVIDERS)}, got {self.device!r}")
        if self.batch_size is not None and self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_length is not None and self.max_length < 8:
            raise InputError(f"max_length must be at least 8 tokens, got {self.max_length}")


class OnnxModel:
    """Session, tokenizer and maximum length of a model folder (``model.onnx``, ``tokenizer.json``, ``config.json``).

    Raises:
        InputError: a file is missing or is not what it should be.
        MissingExtraError: this onnxruntime cannot run on the device asked for.
    """

    def __init__(self, folder: str | Path, options: OnnxOptions) -> None:
        self.options = options
        model_path = _find_model(Path(folder), options.file)
        tokenizer_path = Path(folder) / "tokenizer.json"
        if not tokenizer_path.exists():
            raise InputError(f"{tokenizer_path} is not there: a model folder needs its tokenizer beside the model")
        try:
            self.tokenizer = Tokenizer.from_file(str(tokenizer_path))
        except Exception as error:  # tokenizers raises nothing narrower
            raise InputError(f"{tokenizer_path} is no tokenizer: {error}") from error
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.max_length = options.max_length or _configured_length(Path(folder))
        self._threads = (options.threads or os.cpu_count() or 1) if options.device == "cpu" else 1
        self._batch_size = options.batch_size or (16 if options.device == "cpu" else 128)
        self._pool = ThreadPoolExecutor(self._threads)
        self._session = _open_session(model_path, options)
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._shapes = {node.name: list(node.shape or ()) for node in self._session.get_outputs()}
        self._output = _POOLED if _POOLED in self._shapes else next(iter(self._shapes))
        weights = [model_path, *sorted(model_path.parent.glob(f"{model_path.name}[._]data"))]
        digests = [digest_file(path)[:16] for path in weights]
        self.digest = ":".join([*digests, digest_file(tokenizer_path)[:8]])

    @property
    def output_width(self) -> int | None:
        """Numbers per input, where the model declares it."""
        shape = self._shapes[self._output]
        return int(shape[1]) if len(shape) == 2 and isinstance(shape[1], int) else None

    @property
    def token_output(self) -> str | None:
        """Name of the output that has a vector for each token; None where none has."""
        return next((name for name, shape in self._shapes.items() if len(shape) == 3), None)

    @property
    def is_pooled(self) -> bool:
        """Whether :meth:`run` has a row for each input, as far as the model declares it."""
        return self._output != self.token_output

    @property
    def kernel(self) -> str:
        """Runtime, its version and device, as a fingerprint names them."""
        return f"onnxruntime-{ort.__version__}/{self._session.get_providers()[0]}"

    def tokenize(self, texts: Sequence[str]) -> list[IntArray]:
        """Token ids of each text, without special tokens and not truncated."""
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def run(self, tokens: Sequence[IntArray], types: Sequence[IntArray]) -> FloatArray:
        """What the model gives for each input, in the given order: its output ``sentence_embedding``, or the first.

        Args:
            tokens: token ids of each input, special tokens included.
            types: token type ids, alike.

        Returns:
            (n_inputs, width) float32; a model whose output has one axis gives width 1.

        Raises:
            InputError: the output has a vector for each token.
        """
        outputs: FloatArray | None = None
        for rows, output in self._run_batches(tokens, types, self._output):
            if output.ndim > 2:
                raise InputError(
                    f"the model's output {self._output!r} has shape {output.shape}, one vector a token; one row for an "
                    "input is needed: export the whole model, with what it makes of its tokens"
                )
            given = np.asarray(output, dtype=np.float32).reshape(len(rows), -1)
            if outputs is None:
                outputs = np.empty((len(tokens), given.shape[1]), dtype=np.float32)
            outputs[rows] = given
        return np.empty((0, 1), dtype=np.float32) if outputs is None else outputs

    def run_tokens(self, tokens: Sequence[IntArray], types: Sequence[IntArray]) -> list[FloatArray]:
        """As :meth:`run`, but of the output :attr:`token_output`: for each input (n_tokens, d) float32.

        Raises:
            InputError: there is no such output.
        """
        if self.token_output is None:
            raise InputError(
                "this ONNX model gives one vector for a text, and none for its tokens; export it with both outputs, "
                "'token_embeddings' and 'sentence_embedding'"
            )
        outputs: list[FloatArray] = [np.empty((0, 0), dtype=np.float32)] * len(tokens)
        for rows, output in self._run_batches(tokens, types, self.token_output):
            for row, of_input in zip(rows, output, strict=True):
                outputs[row] = np.array(of_input[: len(tokens[row])], dtype=np.float32)
        return outputs

    def _run_batches(
        self, tokens: Sequence[IntArray], types: Sequence[IntArray], output: str
    ) -> Iterator[tuple[IntArray, np.ndarray[Any, Any]]]:
        """Positions of a batch's inputs, and what the model gives for them."""
        lengths = np.array([len(t) for t in tokens], dtype=np.int64)
        share = -(-len(tokens) // self._threads) if len(tokens) else 1
        batches = list(length_sorted_batches(lengths, min(self._batch_size, share)))
        given = self._pool.map(lambda rows: self._run_batch(rows, tokens, types, output), batches)
        return zip(batches, given, strict=True)

    def _run_batch(
        self, rows: IntArray, tokens: Sequence[IntArray], types: Sequence[IntArray], output: str
    ) -> np.ndarray[Any, Any]:
        """(len(rows), ...)."""
        ids = np.zeros((len(rows), max(len(tokens[row]) for row in rows)), dtype=np.int64)
        mask, type_ids = np.zeros_like(ids), np.zeros_like(ids)
        for n, row in enumerate(rows):
            length = len(tokens[row])
            ids[n, :length] = tokens[row]
            type_ids[n, :length] = types[row]
            mask[n, :length] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": type_ids}
        given = self._session.run([output], {k: v for k, v in feed.items() if k in self._inputs})[0]
        return np.asarray(given)


def length_sorted_batches(lengths: IntArray, batch_size: int) -> Iterator[IntArray]:
    """Positions in batches of like length, longest first (so memory peaks, or fails, at the start)."""
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


@dataclass(frozen=True)
class InputTemplate:
    """Where a tokenizer puts special tokens around one text (``a``) or two (``a``, ``b``); holds for any BERT-like one.

    ``pieces`` holds ids for special tokens, and the letters where texts go; ``types`` the token type of each piece.
    """

    pieces: tuple[int | str, ...]
    types: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, pair: bool) -> InputTemplate:
        """Read off what the tokenizer does with a one-letter text, or two."""
        encoding = tokenizer.encode("a", "a") if pair else tokenizer.encode("a")
        pieces: list[int | str] = []
        types: list[int] = []
        for token, kind, sequence, special in zip(
            encoding.ids, encoding.type_ids, encoding.sequence_ids, encoding.special_tokens_mask, strict=True
        ):
            piece: int | str = token if special or sequence is None else "ab"[sequence]
            if isinstance(piece, int) or piece not in pieces:
                pieces.append(piece)
                types.append(kind)
        if "a" not in pieces or (pair and "b" not in pieces):
            raise InputError(f"the tokenizer does not {'join two texts' if pair else 'keep a one-letter text'}")
        return cls(tuple(pieces), tuple(types))

    @property
    def n_special(self) -> int:
        """Special tokens in every input."""
        return sum(isinstance(piece, int) for piece in self.pieces)

    def fill(self, a: IntArray, b: IntArray | None = None) -> tuple[IntArray, IntArray]:
        """Token ids and token type ids of one input."""
        texts = {"a": a, "b": b}
        parts = [np.array([p]) if isinstance(p, int) else texts[p] for p in self.pieces]
        filled = [p for p in parts if p is not None]
        types = [np.full(len(p), kind) for p, kind in zip(filled, self.types, strict=True)]
        return np.concatenate(filled), np.concatenate(types)


def _find_model(folder: Path, file: str) -> Path:
    for path in (folder / file, folder / "onnx" / file):
        if path.exists():
            return path
    raise InputError(f"no {file} in {folder} nor in its folder 'onnx'; export the model to ONNX first")


def _open_session(path: Path, options: OnnxOptions) -> ort.InferenceSession:
    wanted = _PROVIDERS[options.device]
    if wanted[0] not in ort.get_available_providers():
        raise MissingExtraError(
            f"this onnxruntime has no {wanted[0]}; install the build for your device (onnxruntime-gpu for cuda)"
        )
    session_options = ort.SessionOptions()
    if options.device == "cpu":
        session_options.intra_op_num_threads = 1
    session_options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), session_options, providers=wanted)
    except Exception as error:  # onnxruntime's exceptions have no public base class
        raise InputError(f"onnxruntime cannot open {path}: {error}") from error


def _configured_length(folder: Path) -> int:
    """What config.json, sentence-transformers, or tokenizer and architecture say, in this order; or 512."""
    config, tokenizer = read_json(folder / "config.json", dict), read_json(folder / "tokenizer_config.json", dict)
    for length in (
        config.get("max_length"),
        read_json(folder / "sentence_bert_config.json", dict).get("max_seq_length"),
    ):
        if (usable := _usable(length)) is not None:
            return usable
    positions = _usable(config.get("max_position_embeddings"))
    if positions is not None and "roberta" in str(config.get("model_type")):
        positions -= int(config.get("pad_token_id", 1)) + 1  # these count positions from behind the padding's
    lengths = (positions, _usable(tokenizer.get("model_max_length")))
    return min((length for length in lengths if length is not None), default=512)


def _usable(length: object) -> int | None:
    return length if isinstance(length, int) and 8 <= length <= 1_000_000 else None


def read_json(path: Path, kind: type[_Json]) -> _Json:
    """What a JSON file beside a model holds, a dict or a list; empty where there is no file.

    Raises:
        InputError: it is no JSON, or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else kind()
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, kind):
        raise InputError(f"{path} holds no JSON {'object' if kind is dict else 'array'}")
    return content
