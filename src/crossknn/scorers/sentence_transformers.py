"""Cross-encoders of sentence-transformers (extra ``torch``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError, import_extra, loading
from crossknn.fingerprints import digest_texts, digest_weights
from crossknn.scorers.base import Fingerprint, layers_to_read, read_alone, warn_of_truncation
from crossknn.token_inputs import InputTemplate, TokenInputs, Tokens, batches, plain, truncate_longest_first

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_TOKENS_ON_CPU, _TOKENS_ELSEWHERE = 2_048, 65_536
"""In a batch, where no batch size is given."""

_UNLIMITED = 1_000_000
"""Tokens of a pair, where a model says that it may have any number; transformers says 1e30."""

_PROBES = (("a", "b"), ("what is a heart attack?", "Acute myocardial infarction"), ("naïve", "Ünïcode, 東京"))
_LONG = 4_096
"""Times that a text of three words is repeated, at most, to have one that must be truncated."""

_READ_AT_ONCE = 4_096
"""Texts whose states stay on the device until they are fetched."""

_NEAR = {"torch.float16": 3e-2, "torch.bfloat16": 2e-1}
"""How far scores of the same tokens may lie apart where they were padded otherwise: of 1, or of a larger score; 1e-3 in
full precision."""


class SentenceTransformersScorer:
    """A ``sentence_transformers.CrossEncoder`` with one label, asked for its raw logits.

    Its ``predict`` tokenises a text again with each pair, which takes a GPU's time many times over. Where a model
    reads two texts as BERT does, items are tokenised once here, and put together with queries for its forward pass;
    whether its inputs are those of ``predict`` is made sure of when it is opened, and where they are not (prompts, chat
    templates, most decoders), ``predict`` scores.

    Args:
        model: a loaded ``CrossEncoder``, or the name or folder of one.
        device: "cpu", "cuda", "mps", ...; None lets sentence-transformers choose. Only for a name or folder.
        dtype: "float32", "float16" or "bfloat16". bfloat16 has an 8-bit mantissa: the best items may tie.
            Only for a name or folder.
        max_length: tokens of a pair; None keeps the model's own. Only for a name or folder.
        batch_size: pairs per forward pass; None takes as many as have 65,536 tokens together (2,048 on a CPU), and
            fewer once memory has run out; where ``predict`` scores, 64 (32).

    Attributes:
        tokenises_once: whether texts are tokenised here; else ``predict`` does it for each pair.

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
        batch_size: int | None = None,
    ) -> None:
        library = import_extra("sentence_transformers", "torch")
        torch = import_extra("torch", "torch")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if isinstance(model, str | Path):
            with loading(f"the cross-encoder {model} on device {device or 'auto'!r} in {dtype}"):
                model = library.CrossEncoder(
                    str(model), device=device, max_length=max_length, model_kwargs={"dtype": dtype}
                )
        opened: Any = model
        if opened.num_labels != 1:
            raise InputError(f"the cross-encoder has {opened.num_labels} labels; one logit is needed")
        self._model = _Model(torch, opened, batch_size)
        weights = next(opened.model.parameters())
        tokenizer = digest_texts([self._model.tokenizer.to_str()])
        self.fingerprint = Fingerprint(
            model=f"sentence-transformers:{digest_weights(opened.model)[:16]}:{tokenizer[:8]}:{weights.dtype}"
            f":max_length={self._model.said_length}",
            kernel=f"torch-{torch.__version__}/{weights.device.type}",
        )
        self.tokenises_once = self._model.template is not None

    def prepare(self, items: Sequence[str]) -> _BoundSentenceTransformers:
        """Bind to items, and tokenise them. Costs no CE call."""
        return _BoundSentenceTransformers(self._model, items)

    def states(self, texts: Sequence[str]) -> FloatArray:
        """Hidden states, as :class:`~crossknn.WithStates` reads them, two thirds and five sixths of the way up.

        Args:
            texts: each is read as an item, with an empty query; cut where it is too long.

        Returns:
            (n_texts, 2, d) float32 (one layer where a model has too few), zeros for a text without a token.

        Raises:
            InputError: ``tokenises_once`` is False: only ``predict`` knows how this model reads.

        Cost: a pass of the model over each text, somewhat less than a CE call.
        """
        return self._model.states(texts)


class _SeenError(Exception):
    """What a model was given has been seen, and need not be computed."""


class _Model:
    """A cross-encoder, and what is known of how it reads."""

    def __init__(self, torch: Any, opened: Any, batch_size: int | None) -> None:
        self._torch, self._opened, self._batch_size = torch, opened, batch_size
        weights = next(opened.model.parameters())
        self._device, self._dtype = weights.device, str(weights.dtype)
        self._at_once = _TOKENS_ON_CPU if self._device.type == "cpu" else _TOKENS_ELSEWHERE
        self.tokenizer = plain(opened.tokenizer.backend_tokenizer)
        self._identity = torch.nn.Identity()
        length = opened.max_seq_length if hasattr(opened, "max_seq_length") else opened.max_length
        self.said_length: int | None = length
        self.max_length = min(int(length or _UNLIMITED), _UNLIMITED)
        self.room = self.max_length - opened.tokenizer.num_special_tokens_to_add(pair=True)
        self._names = set(opened.tokenizer.model_input_names)
        self.template = self._understood()
        """How two texts are put together for :meth:`logits`; None where only :meth:`predict` knows."""

    def tokens(self, texts: Sequence[str]) -> Tokens:
        return Tokens.of(self.tokenizer, texts)

    def _understood(self) -> InputTemplate | None:
        """The template that gives the model what :meth:`predict` gives it, of a few texts; None if none does."""
        long = "one two three " * min(self.max_length, _LONG)
        pairs = [*_PROBES, (long, long), (long, "four"), ("four", long)]
        a, b = (self.tokens(list(side)) for side in zip(*pairs, strict=True))
        a, b, _ = truncate_longest_first(a, b, self.room)
        few = np.arange(len(_PROBES))
        try:
            template = InputTemplate.of(self.tokenizer, pair=True)
            inputs = TokenInputs(template, a, b)
            if not all(self._is_given(inputs.padded(np.array([n])), pair) for n, pair in enumerate(pairs)):
                return None
            own, theirs = self.logits(inputs.take(few)), self.predict(_PROBES)
        except Exception:  # noqa: BLE001  a model that reads in its own way may raise anything, and predict says what
            return None
        near = _NEAR.get(self._dtype, 1e-3) * np.maximum(1, np.abs(theirs))
        return template if (np.abs(own - theirs) <= near).all() else None

    def _is_given(self, padded: dict[str, IntArray], pair: tuple[str, str]) -> bool:
        """Whether these are what :meth:`predict` would give the model for a pair; no forward pass."""
        given: dict[str, Any] = {}

        def look(*_: Any, **inputs: Any) -> None:
            given.update(inputs)
            raise _SeenError

        before = vars(self._opened.model).get("forward")
        self._opened.model.forward = look
        try:
            self.predict([pair])
        except _SeenError:
            pass
        finally:
            if before is None:
                del self._opened.model.forward
            else:
                self._opened.model.forward = before
        tensors = {name: value.cpu().numpy() for name, value in given.items() if self._torch.is_tensor(value)}
        own = {name: values for name, values in padded.items() if name in self._names}
        return tensors.keys() == own.keys() and all(np.array_equal(own[name], tensors[name]) for name in own)

    def logits(self, inputs: TokenInputs) -> FloatArray:
        """(n_inputs,) raw logits."""

        def one(given: dict[str, Any], rows: IntArray) -> Any:
            return self._opened.model(**given).logits[:, 0]

        return self._run(inputs, one)

    def states(self, texts: Sequence[str]) -> FloatArray:
        """See :meth:`SentenceTransformersScorer.states`."""
        if self.template is None:
            raise InputError("this cross-encoder reads in a way of its own: what it makes of a text alone is not known")
        inputs = read_alone(self.template, self.tokens(texts), self.max_length)

        def means(given: dict[str, Any], rows: IntArray) -> Any:
            hidden = self._opened.model(**given, output_hidden_states=True).hidden_states
            inside = self._torch.from_numpy(some.within_second(rows)).to(self._device, hidden[0].dtype)
            shares = inside / inside.sum(dim=1, keepdim=True).clamp(min=1)
            read = [(shares[:, None] @ hidden[layer])[:, 0] for layer in layers_to_read(len(hidden) - 1)]
            return self._torch.stack(read, dim=1)

        sizes = self._at_once, self._batch_size  # all layers are in memory: what is too much here is not for scores
        parts = []
        try:
            for first in range(0, len(texts), _READ_AT_ONCE):
                some = inputs.take(np.arange(first, min(len(texts), first + _READ_AT_ONCE)))
                parts.append(self._run(some, means).astype(np.float32))
        finally:
            self._at_once, self._batch_size = sizes
        return np.concatenate(parts) if parts else np.empty((0, 1, 0), dtype=np.float32)

    def _run(self, inputs: TokenInputs, made_of: Callable[[dict[str, Any], IntArray], Any]) -> FloatArray:
        """(n_inputs, ...) what is made of batches; where memory runs out, less is taken at once from then on."""
        lengths = inputs.lengths
        waiting = self._batches(lengths)[::-1]
        found = []
        self._opened.eval()
        with self._torch.inference_mode():
            while waiting:
                rows = waiting.pop()
                padded = {name: values for name, values in inputs.padded(rows).items() if name in self._names}
                try:
                    given = {name: self._torch.from_numpy(v).to(self._device) for name, v in padded.items()}
                    found.append((rows, made_of(given, rows).float()))
                except self._torch.cuda.OutOfMemoryError:
                    if len(rows) == 1:
                        raise
                    self._at_once = padded["input_ids"].size // 2
                    self._batch_size = None if self._batch_size is None else len(rows) // 2
                    left = np.concatenate([rows, *waiting[::-1]])
                    waiting = [left[some] for some in self._batches(lengths[left])][::-1]
        made = np.empty((len(lengths), *(found[0][1].shape[1:] if found else ())))
        for rows, values in found:  # only now does anyone wait for the device
            made[rows] = values.cpu().numpy()
        return made

    def _batches(self, lengths: IntArray) -> list[IntArray]:
        if self._batch_size is not None:
            return batches(lengths, max_inputs=self._batch_size)
        return batches(lengths, max_tokens=self._at_once)

    def predict(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """(n,) as sentence-transformers computes them."""
        size = self._batch_size or (32 if self._device.type == "cpu" else 64)
        scores = self._opened.predict(
            [list(pair) for pair in pairs], batch_size=size, activation_fn=self._identity, show_progress_bar=False
        )
        return np.asarray(scores, dtype=np.float64)


class _BoundSentenceTransformers:
    """The scorer with its items; ``truncated`` counts the pairs cut to the maximum length so far."""

    def __init__(self, model: _Model, items: Sequence[str]) -> None:
        self._model, self._items = model, items
        self._tokens = model.tokens(items)
        self.truncated = 0

    def score(self, queries: Sequence[str], query_indices: IntArray, item_indices: IntArray) -> FloatArray:
        """Raw logits; see :class:`~crossknn.scorers.base.BoundScorer`."""
        if not len(item_indices):
            return np.empty(0)
        a, b = self._model.tokens(queries).take(query_indices), self._tokens.take(item_indices)
        a, b, cut = truncate_longest_first(a, b, self._model.room)
        if cut and not self.truncated:
            warn_of_truncation(cut, len(item_indices), self._model.max_length)
        self.truncated += cut
        if self._model.template is not None:
            return self._model.logits(TokenInputs(self._model.template, a, b))
        return self._model.predict(
            [(queries[q], self._items[i]) for q, i in zip(query_indices, item_indices, strict=True)]
        )
