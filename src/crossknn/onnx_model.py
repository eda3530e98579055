"""A transformer in ONNX with its tokenizer: what the ONNX scorer and the ONNX encoder share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
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
from crossknn.token_inputs import TokenInputs, batches, plain

_Made = TypeVar("_Made")
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
        if self.threads < 0:
            raise InputError(f"threads must be 0 (as many as there are cores) or more, got {self.threads}")


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
            self.tokenizer = plain(Tokenizer.from_file(str(tokenizer_path)))
        except Exception as error:  # tokenizers raises nothing narrower
            raise InputError(f"{tokenizer_path} is no tokenizer: {error}") from error
        self.max_length = _length(Path(folder), options.max_length)
        self._threads = (options.threads or _cores()) if options.device == "cpu" else 1
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
    def token_outputs(self) -> list[str]:
        """Names of the outputs that have a vector for each token."""
        return [name for name, shape in self._shapes.items() if len(shape) == 3]

    @property
    def is_pooled(self) -> bool:
        """Whether :meth:`run` has a row for each input, as far as the model declares it."""
        return self._output not in self.token_outputs

    @property
    def kernel(self) -> str:
        """Runtime, its version and device, as a fingerprint names them."""
        return f"onnxruntime-{ort.__version__}/{self._session.get_providers()[0]}"

    def run(self, inputs: TokenInputs) -> FloatArray:
        """What the model gives for each input, in the given order: its output ``sentence_embedding``, or the first.

        Returns:
            (n_inputs, width) float32; a model whose output has one axis gives width 1.

        Raises:
            InputError: the output has a vector for each token.
        """
        outputs: FloatArray | None = None
        for rows, output in self._run_batches(inputs, [self._output], _only):
            if output.ndim > 2:
                raise InputError(
                    f"the model's output {self._output!r} has shape {output.shape}, one vector a token; one row for an "
                    "input is needed: export the whole model, with what it makes of its tokens"
                )
            given = np.asarray(output, dtype=np.float32).reshape(len(rows), -1)
            if outputs is None:
                outputs = np.empty((len(inputs.lengths), given.shape[1]), dtype=np.float32)
            outputs[rows] = given
        return np.empty((0, 1), dtype=np.float32) if outputs is None else outputs

    def run_tokens(self, inputs: TokenInputs) -> list[FloatArray]:
        """As :meth:`run`, but of the first of :attr:`token_outputs`: for each input (n_tokens, d) float32.

        Raises:
            InputError: there is no such output.
        """
        if not self.token_outputs:
            raise InputError(
                "this ONNX model gives one vector for a text, and none for its tokens; export it with both outputs, "
                "'token_embeddings' and 'sentence_embedding'"
            )
        lengths = inputs.lengths
        outputs: list[FloatArray] = [np.empty((0, 0), dtype=np.float32)] * len(lengths)
        for rows, output in self._run_batches(inputs, self.token_outputs[:1], _only):
            for row, of_input in zip(rows, output, strict=True):
                outputs[row] = np.array(of_input[: lengths[row]], dtype=np.float32)
        return outputs

    def run_states(self, inputs: TokenInputs) -> FloatArray:
        """Of every one of :attr:`token_outputs`, the mean over the tokens of each input's second text.

        Returns:
            (n_inputs, n_outputs, d) float32, zeros where a text has no token.

        Raises:
            InputError: the outputs are not all of one width, or have something else than a vector for each token.
        """

        def means(rows: IntArray, outputs: list[np.ndarray[Any, Any]]) -> FloatArray:
            inside = inputs.within_second(rows).astype(np.float32)
            shapes = {output.shape for output in outputs}
            if len(shapes) > 1 or shapes.pop()[:2] != inside.shape:
                raise InputError(
                    f"the model's outputs {', '.join(self.token_outputs)} should have a vector of one width for each "
                    f"token, and have shapes {[output.shape for output in outputs]} for {inside.shape} tokens"
                )
            shares = inside / np.maximum(inside.sum(axis=1, keepdims=True), 1)
            return np.stack([(shares[:, None] @ output)[:, 0] for output in outputs], axis=1)

        found: FloatArray | None = None
        for rows, given in self._run_batches(inputs, self.token_outputs, means):
            if found is None:
                found = np.empty((len(inputs.lengths), *given.shape[1:]), dtype=np.float32)
            found[rows] = given
        return np.empty((0, 1, 0), dtype=np.float32) if found is None else found

    def _run_batches(
        self, inputs: TokenInputs, outputs: list[str], made_of: Callable[[IntArray, list[np.ndarray[Any, Any]]], _Made]
    ) -> Iterator[tuple[IntArray, _Made]]:
        """Positions of a batch's inputs, and what is made of what the model gives for them."""
        lengths = inputs.lengths
        share = max(1, -(-len(lengths) // self._threads))
        some = batches(lengths, max_inputs=min(self._batch_size, share))
        made = self._pool.map(lambda rows: made_of(rows, self._run_batch(inputs.padded(rows), outputs)), some)
        return zip(some, made, strict=True)

    def _run_batch(self, padded: dict[str, IntArray], outputs: list[str]) -> list[np.ndarray[Any, Any]]:
        """(n_inputs, ...) of each output."""
        given = self._session.run(outputs, {k: v for k, v in padded.items() if k in self._inputs})
        return [np.asarray(output) for output in given]


def _only(rows: IntArray, outputs: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return outputs[0]


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


def _length(folder: Path, asked: int | None) -> int:
    """What is asked for; or what config.json, sentence-transformers, or tokenizer and architecture say, in this order;
    or 512.

    Raises:
        InputError: more is asked for than the model has positions.
    """
    config, tokenizer = read_json(folder / "config.json", dict), read_json(folder / "tokenizer_config.json", dict)
    positions = _usable(config.get("max_position_embeddings"))
    if positions is not None and "roberta" in str(config.get("model_type")):
        positions -= int(config.get("pad_token_id", 1)) + 1  # these count positions from behind the padding's
    if asked is not None:
        if positions is not None and asked > positions:
            raise InputError(f"max_length is {asked}, and {folder} takes {positions} tokens at most")
        return asked
    for length in (
        config.get("max_length"),
        read_json(folder / "sentence_bert_config.json", dict).get("max_seq_length"),
    ):
        if (usable := _usable(length)) is not None:
            return usable
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


def _cores() -> int:
    """Cores that this process may run on: a container or taskset may allow fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
