"""A bi-encoder in ONNX: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.onnx_model import OnnxModel, OnnxOptions, read_json
from crossknn.token_inputs import InputTemplate, TokenInputs, Tokens

_AT_ONCE = 512
"""Texts whose token vectors stand in memory until they are pooled."""


class OnnxEncoder:
    """A bi-encoder in ONNX.

    A model that gives a vector for each token is pooled as sentence-transformers pools it, which the folder's
    ``modules.json`` says: most sentence-transformers repositories with an ``onnx/model.onnx`` will do as they are. A
    default prompt is written before every text, as there.

    Args:
        folder: holds ``model.onnx`` and ``tokenizer.json``.
        options: file, maximum length, batch size, device and threads.

    Raises:
        InputError: a file is missing or is not what it should be, or nothing says how tokens are pooled.
    """

    def __init__(self, folder: str | Path, options: OnnxOptions | None = None) -> None:
        self._model = OnnxModel(folder, options or OnnxOptions())
        if self._model.output_width == 1:
            raise InputError(f"the model in {folder} gives one number a text; is it a cross-encoder?")
        self._template = InputTemplate.of(self._model.tokenizer, pair=False)
        self._pooling = None if self._model.is_pooled else _Pooling.of(Path(folder))
        self._prompt = _default_prompt(Path(folder))
        pooled = "" if self._pooling is None else f"{self._pooling.fingerprint}:"
        prompt = f"prompt={self._prompt!r}:" if self._prompt else ""
        self.fingerprint = f"onnx:{self._model.digest}:{pooled}{prompt}max_length={self._model.max_length}"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`~crossknn.first_stage.dense.Encoder`; longer texts are cut."""
        if self._pooling is None:
            return self._model.run(self._inputs(texts))
        vectors = [
            self._pooling.pooled(tokens)
            for first in range(0, len(texts), _AT_ONCE)
            for tokens in self.embed_tokens(texts[first : first + _AT_ONCE])
        ]
        return np.array(vectors, dtype=np.float32).reshape(len(texts), -1 if vectors else 1)

    @property
    def gives_tokens(self) -> bool:
        """Whether the model has an output with a vector for each token: :meth:`embed_tokens` needs it."""
        return bool(self._model.token_outputs)

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """See :class:`~crossknn.first_stage.late.TokenEncoder`; special tokens are among them.

        Raises:
            InputError: the model has no output with a vector for each token.
        """
        return self._model.run_tokens(self._inputs(texts))

    def _inputs(self, texts: Sequence[str]) -> TokenInputs:
        tokens = Tokens.of(self._model.tokenizer, [f"{self._prompt}{text}" for text in texts])
        return TokenInputs(self._template, tokens.truncated(self._model.max_length - self._template.n_special))


def _default_prompt(folder: Path) -> str:
    """What sentence-transformers writes before every text, where the folder says so."""
    config = read_json(folder / "config_sentence_transformers.json", dict)
    prompts, name = config.get("prompts") or {}, config.get("default_prompt_name")
    return str(prompts.get(name, "")) if name is not None else ""


@dataclass(frozen=True)
class _Pooling:
    """From the vectors of a text's tokens to that of the text.

    Attributes:
        mode: "mean", or "cls" for the first token's.
        normalised: whether to length 1.
    """

    mode: str
    normalised: bool

    @classmethod
    def of(cls, folder: Path) -> _Pooling:
        """As the folder of a sentence-transformers model says."""
        modules = [
            (str(module.get("type", "")).rpartition(".")[2], str(module.get("path", "")))
            for module in read_json(folder / "modules.json", list)
            if isinstance(module, dict)
        ]
        kinds = [kind for kind, _ in modules]
        if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
            raise InputError(
                f"the model in {folder} gives a vector for each token, and what is to be made of them is not known: "
                f"modules.json should name Transformer, Pooling and perhaps Normalize, and names {kinds or 'nothing'}; "
                "export the model with its pooling, so that it gives one vector for a text"
            )
        config = read_json(folder / modules[1][1] / "config.json", dict)
        legacy = [
            name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
            for name, chosen in config.items()
            if name.startswith("pooling_mode_") and chosen is True
        ]
        mode = config.get("pooling_mode", legacy)
        modes = [mode] if isinstance(mode, str) else mode
        if not modes:
            raise InputError(f"{folder / modules[1][1] / 'config.json'} is missing, or names no pooling mode")
        if modes not in (["mean"], ["cls"]) or config.get("include_prompt") is False:
            raise InputError(
                f"the model in {folder} pools its tokens by {modes}, and only 'mean' and 'cls' of all of them are "
                "known here; export the model with its pooling"
            )
        return cls(modes[0], len(kinds) > 2)

    @property
    def fingerprint(self) -> str:
        """What identifies it."""
        return f"{self.mode}{':unit' if self.normalised else ''}"

    def pooled(self, tokens: FloatArray) -> FloatArray:
        """(d,), of (n_tokens, d)."""
        vector: FloatArray = tokens.mean(axis=0) if self.mode == "mean" else tokens[0]
        return vector / max(float(np.linalg.norm(vector)), 1e-12) if self.normalised else vector
