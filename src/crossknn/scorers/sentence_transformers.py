"""Cross-encoders of sentence-transformers (extra ``torch``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, import_extra, loading
from crossknn.fingerprints import digest_texts, digest_weights
from crossknn.scorers.base import Fingerprint, warn_of_truncation

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


class SentenceTransformersScorer:
    """A ``sentence_transformers.CrossEncoder`` with one label, asked for its raw logits.

    Args:
        model: a loaded ``CrossEncoder``, or the name or folder of one.
        device: "cpu", "cuda", "mps", ...; None lets sentence-transformers choose. Only for a name or folder.
        dtype: "float32", "float16" or "bfloat16". bfloat16 has an 8-bit mantissa: the best items may tie.
            Only for a name or folder.
        max_length: tokens of a pair; None keeps the model's own. Only for a name or folder.
        batch_size: pairs per forward pass.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: there is no such model, device or dtype, or the model has more than one label.
    """

    def __init__(
        self,
        model: CrossEncoder | str | Path,
        *,
        device: str | None = None,
        dtype: str = "float32",
        max_length: int | None = None,
        batch_size: int = 64,
    ) -> None:
        library = import_extra("sentence_transformers", "torch")
        torch = import_extra("torch", "torch")
        self._identity = torch.nn.Identity()
        if isinstance(model, str | Path):
            with loading(f"the cross-encoder {model} on device {device or 'auto'!r} in {dtype}"):
                model = library.CrossEncoder(
                    str(model), device=device, max_length=max_length, model_kwargs={"dtype": dtype}
                )
        self._model: Any = model
        self._batch_size = batch_size
        if self._model.num_labels != 1:
            raise InputError(f"the cross-encoder has {self._model.num_labels} labels; one logit is needed")
        weights = next(self._model.model.parameters())
        new = hasattr(self._model, "max_seq_length")
        self._max_length = length = self._model.max_seq_length if new else self._model.max_length
        tokenizer = digest_texts([self._model.tokenizer.backend_tokenizer.to_str()])
        self.fingerprint = Fingerprint(
            model=f"sentence-transformers:{digest_weights(self._model.model)[:16]}:{tokenizer[:8]}:{weights.dtype}"
            f":max_length={length}",
            kernel=f"torch-{torch.__version__}/{weights.device.type}",
        )

    def prepare(self, items: Sequence[str]) -> _BoundSentenceTransformers:
        """Bind to items; sentence-transformers tokenises them pair by pair. Costs no CE call."""
        return _BoundSentenceTransformers(self._model, self._identity, self._batch_size, self._max_length, items)


class _BoundSentenceTransformers:
    """The scorer with its items; ``truncated`` counts the pairs cut to the maximum length so far."""

    def __init__(
        self, model: Any, identity: Any, batch_size: int, max_length: int | None, items: Sequence[str]
    ) -> None:
        self._model, self._identity, self._batch_size, self._items = model, identity, batch_size, items
        self._max_length = max_length
        self._item_lengths = self._lengths(items)
        self.truncated = 0

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        if not len(item_indices):
            return np.empty(0)
        pairs = [[queries[q], self._items[i]] for q, i in zip(query_indices, item_indices, strict=True)]
        self._count_truncated(self._lengths(queries)[query_indices] + self._item_lengths[item_indices])
        scores: FloatArray = self._model.predict(
            pairs, batch_size=self._batch_size, activation_fn=self._identity, show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float64)

    def _lengths(self, texts: Sequence[str]) -> IntArray:
        """(len(texts),) tokens of each, without special ones."""
        tokens = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False, verbose=False)
        return np.array([len(ids) for ids in tokens["input_ids"]], dtype=np.int64)

    def _count_truncated(self, lengths: IntArray) -> None:
        if self._max_length is None:
            return
        room = self._max_length - self._model.tokenizer.num_special_tokens_to_add(pair=True)
        cut = int(np.sum(lengths > room))
        if cut and not self.truncated:
            warn_of_truncation(cut, len(lengths), self._max_length)
        self.truncated += cut
