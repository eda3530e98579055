"""Dual encoders: items and queries embedded apart, scored by inner product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError, import_extra, loading
from crossknn.fingerprints import digest_weights
from crossknn.first_stage.base import Kept, new_texts, with_new_rows
from crossknn.vectors import inner_products

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


_TOKENS_OF = 512
"""Texts whose token vectors are computed at once."""


class Encoder(Protocol):
    """Texts to vectors."""

    @property
    def fingerprint(self) -> str:
        """Model and settings."""
        ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """(n_texts, d) float32; inner products are the scores."""
        ...


class Dense:
    """First stage over an encoder's vectors.

    Args:
        encoder: embeds queries, and the items unless their vectors are given.
        item_vectors: (n_items, d) vectors of the items, made by the same encoder earlier.

    Attributes:
        encoder: the same.
    """

    def __init__(self, encoder: Encoder, item_vectors: FloatArray | None = None) -> None:
        self.encoder = encoder
        self._item_vectors = item_vectors
        self.fingerprint = f"dense:{encoder.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundDense:
        """Embed the items, unless their ``vectors`` are kept or known.

        Raises:
            InputError: the vectors given do not fit the items, or are not finite.
        """
        vectors = kept["vectors"] if kept else self._item_vectors
        if vectors is None:
            vectors = self.encoder.embed(items) if items else np.empty((0, 1), dtype=np.float32)
        vectors = vectors if isinstance(vectors, np.ndarray) else np.asarray(vectors, dtype=np.float32)
        if vectors.ndim != 2 or len(vectors) != len(items):
            raise InputError(f"item vectors have shape {vectors.shape}, but there are {len(items)} items")
        if vectors.dtype != np.float32:
            vectors = vectors.astype(np.float32)
        if not kept and not np.isfinite(vectors).all():
            raise InputError("item vectors must be finite; some are NaN or infinite")
        return BoundDense(self.encoder, vectors)


class BoundDense:
    """A dual encoder with its items embedded; see :class:`~crossknn.first_stage.base.VectorFirstStage`."""

    def __init__(self, encoder: Encoder, item_vectors: FloatArray) -> None:
        self._encoder = encoder
        self.item_vectors = item_vectors

    @property
    def kept(self) -> Kept:
        """``vectors``, (n_items, d) float32."""
        return {"vectors": self.item_vectors}

    def updated(self, items: Sequence[str], rows: IntArray) -> BoundDense:
        """Embeds the new items; see :meth:`~crossknn.first_stage.base.Keeper.updated`.

        Raises:
            InputError: the encoder gave vectors of another width than the others', or not finite ones.
        """
        return BoundDense(self._encoder, with_new_rows(self.item_vectors, rows, self._embedded(new_texts(items, rows))))

    def _embedded(self, items: Sequence[str]) -> FloatArray:
        """(n_items, d) float32 vectors of some more items."""
        if not items:
            return np.empty((0, self.item_vectors.shape[1]), dtype=np.float32)
        vectors = np.asarray(self._encoder.embed(items), dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise InputError("item vectors must be finite; some are NaN or infinite")
        return vectors

    def embed_queries(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) float32.

        Raises:
            InputError: the encoder gave vectors of another width than the items', or not finite ones.
        """
        if not queries:
            return np.empty((0, self.item_vectors.shape[1]), dtype=np.float32)
        # One by one: a transformer's last digits depend on its batch, and a query's result must not.
        vectors = np.vstack([np.asarray(self._encoder.embed([query]), dtype=np.float32) for query in queries])
        if vectors.shape != (len(queries), self.item_vectors.shape[1]) or not np.isfinite(vectors).all():
            raise InputError(
                f"the encoder gave query vectors of shape {vectors.shape}, or not finite ones; expected were "
                f"{(len(queries), self.item_vectors.shape[1])}, as wide as the item vectors"
            )
        return vectors

    def scores_given(
        self, queries: Sequence[str], query_vectors: FloatArray, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) inner products of vectors that are known already, whatever is allowed."""
        return inner_products(query_vectors, self.item_vectors)

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) inner products."""
        return self.scores_given(queries, self.embed_queries(queries))


class GivenVectors:
    """An encoder that knows the vectors of some texts already, from wherever they came.

    Args:
        vectors: text to vector, all of one width.
        name: identifies where they came from. An index opens with vectors of the name it was built with, so change it
            when they do.
    """

    def __init__(self, vectors: Mapping[str, FloatArray], *, name: str) -> None:
        self._vectors = vectors
        self.fingerprint = name

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`Encoder`."""
        missing = next((text for text in texts if text not in self._vectors), None)
        if missing is not None:
            raise InputError(f"no vector was given for the text {missing!r}")
        widths = {np.shape(self._vectors[text]) for text in texts}
        if len(widths) > 1:
            raise InputError(f"the vectors given have different widths: {sorted(widths)}")
        return np.array([self._vectors[text] for text in texts], dtype=np.float32)


class SentenceTransformersEncoder:
    """A ``sentence_transformers.SentenceTransformer`` (extra ``torch``).

    Args:
        model: a loaded model, or the name or folder of one.
        device: "cpu", "cuda", ...; None lets sentence-transformers choose. Only for a name or folder.
        batch_size: texts per forward pass.

    Raises:
        MissingExtraError: sentence-transformers is not installed.
        InputError: there is no such model or device.
    """

    def __init__(
        self, model: SentenceTransformer | str | Path, *, device: str | None = None, batch_size: int = 64
    ) -> None:
        library = import_extra("sentence_transformers", "torch")
        if isinstance(model, str | Path):
            with loading(f"the encoder {model} on device {device or 'auto'!r}"):
                model = library.SentenceTransformer(str(model), device=device)
        self._model: Any = model
        self._batch_size = batch_size
        self.fingerprint = f"sentence-transformers:{digest_weights(self._model)[:16]}"

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """See :class:`Encoder`."""
        vectors = self._model.encode(
            list(texts), batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float32)

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """See :class:`~crossknn.first_stage.late.TokenEncoder`; special tokens are among them."""
        found: list[FloatArray] = []
        for first in range(0, len(texts), _TOKENS_OF):  # what is encoded together stays on the device until the end
            outputs = self._model.encode(
                list(texts[first : first + _TOKENS_OF]),
                batch_size=self._batch_size,
                output_value=None,
                show_progress_bar=False,
            )
            for out in outputs:
                own = out["token_embeddings"][out["attention_mask"].bool()]  # padding may stand on either side
                found.append(np.asarray(own.float().cpu(), dtype=np.float32))
        return found
