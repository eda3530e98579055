"""Cross-encoders in ONNX, run by ONNX Runtime: no torch, on a CPU or GPU, in fp32, fp16 or int8."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.onnx_model import OnnxModel, OnnxOptions
from crossknn.scorers.base import Fingerprint, read_alone, warn_of_truncation
from crossknn.token_inputs import InputTemplate, TokenInputs, Tokens, truncate_longest_first


class OnnxScorer:
    """A cross-encoder with one raw logit, as ``optimum`` or ``sentence-transformers`` export it.

    Args:
        folder: holds ``model.onnx`` (or ``onnx/model.onnx``) and ``tokenizer.json``.
        options: file, maximum length, batch size, device and threads.

    Raises:
        InputError: a file is missing or broken, or the tokenizer cannot join two texts.
        MissingExtraError: the device is not supported by the installed onnxruntime.

    Note:
        A model with plain *dynamic* int8 quantisation takes one scale per batch, so that a pair's score depends on its
        neighbours. Use block-wise or static quantisation (``training/export_onnx.py`` shows how), or fp32.
    """

    def __init__(self, folder: str | Path, options: OnnxOptions | None = None) -> None:
        self._model = OnnxModel(folder, options or OnnxOptions())
        self._template = InputTemplate.of(self._model.tokenizer, pair=True)
        _check_width(self._model.output_width)
        self.fingerprint = Fingerprint(
            model=f"onnx:{self._model.digest}:max_length={self._model.max_length}", kernel=self._model.kernel
        )

    def prepare(self, items: Sequence[str]) -> BoundOnnxScorer:
        """Tokenise the items once. Costs no CE call."""
        return BoundOnnxScorer(self._model, self._template, items)

    def states(self, texts: Sequence[str]) -> FloatArray:
        """Hidden states, as :class:`~crossknn.WithStates` reads them: of the outputs that have a vector for each token.

        Args:
            texts: each is read as an item, with an empty query; cut where it is too long.

        Returns:
            (n_texts, n_outputs, d) float32, zeros for a text without a token.

        Raises:
            InputError: the model has no such output beside its logit.

        Cost: a pass of the model over each text, somewhat less than a CE call.
        """
        if not self._model.token_outputs:
            raise InputError(
                "this ONNX cross-encoder shows its logit alone; export it with further outputs of shape (batch, "
                "length, width), the hidden states of a layer or two some two thirds of the way up, or score with "
                "sentence-transformers"
            )
        tokens = Tokens.of(self._model.tokenizer, texts)
        return self._model.run_states(read_alone(self._template, tokens, self._model.max_length))


class BoundOnnxScorer:
    """An :class:`OnnxScorer` with its items tokenised.

    Attributes:
        truncated: pairs cut to the maximum length so far.
    """

    def __init__(self, model: OnnxModel, template: InputTemplate, items: Sequence[str]) -> None:
        self._model, self._template = model, template
        self._items = Tokens.of(model.tokenizer, items)
        self.truncated = 0

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """Raw logits; see :class:`~crossknn.scorers.base.BoundScorer`."""
        a, b = Tokens.of(self._model.tokenizer, queries).take(query_indices), self._items.take(item_indices)
        a, b, cut = truncate_longest_first(a, b, self._model.max_length - self._template.n_special)
        if cut and not self.truncated:
            warn_of_truncation(cut, len(item_indices), self._model.max_length)
        self.truncated += cut
        logits = self._model.run(TokenInputs(self._template, a, b))
        _check_width(logits.shape[1])
        return logits[:, 0].astype(np.float64)


def _check_width(width: int | None) -> None:
    if width not in (None, 1):
        raise InputError(f"the model gives {width} numbers a pair; a cross-encoder with one logit is needed")
