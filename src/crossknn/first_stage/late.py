"""Late interaction: every word looks for the word of the other text that is nearest to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.first_stage.base import Kept, new_texts
from crossknn.first_stage.dense import Encoder
from crossknn.vectors import top_k

_SAMPLED = 50_000
_AT_ONCE = 2**12
_SHARPNESS = 3


@runtime_checkable
class TokenEncoder(Protocol):
    """Texts to a vector for each of their tokens, which depends on the others of the text."""

    @property
    def fingerprint(self) -> str:
        """Model and settings."""
        ...

    def embed_tokens(self, texts: Sequence[str]) -> list[FloatArray]:
        """For each text (n_tokens, d) float32."""
        ...


class LateInteraction:
    """First stage that compares tokens: how near the nearest token of the other text is, on average.

    The score is half the mean of ``exp(3 (m - 1))`` over a query's tokens, where ``m`` is the highest cosine with an
    item's token, and half the same over the item's tokens: MaxSim of ColBERT (Khattab and Zaharia, SIGIR 2020), both
    ways as in BERTScore (Zhang et al., ICLR 2020), over the token vectors of any encoder, less their mean. The
    exponential lets near misses count for little; it was chosen on pairs of train queries held out, of ICD-10-CM and
    HPO. One vector for a text has no room for which word meets which; this sees more of what a cross-encoder sees. It
    has no item vectors of its own: give it those of a dual encoder for searches to go on in,
    ``WithVectors(LateInteraction(encoder), Hybrid(encoder))``, and what is learned over them by
    :class:`~crossknn.factorization.MFSideInformation` takes its score into account.

    Memory: ``4 * dimensions`` bytes for every token of every item; while they are prepared as many again and ``8 d``
    more for each, where the encoder's are ``d`` wide.

    Args:
        encoder: embeds tokens: :class:`~crossknn.SentenceTransformersEncoder`, or :class:`~crossknn.OnnxEncoder` with
            a model that gives them.
        dimensions: of a token's vector, the principal ones of the items' tokens; all where there are fewer.
        shortlist: how many items' tokens a query looks at where a dual encoder stands behind: its best. The others get
            the score that is to be expected of one that the dual encoder scores as it does them. Under a filter, the
            best of those that it allows.

    Raises:
        InputError: ``dimensions`` or ``shortlist`` below 1, or an encoder, or a model of it, that has no token vectors.
    """

    def __init__(self, encoder: TokenEncoder | Encoder, *, dimensions: int = 128, shortlist: int = 10_000) -> None:
        if dimensions < 1 or shortlist < 1:
            raise InputError(f"dimensions and shortlist must be 1 or more, got {dimensions} and {shortlist}")
        if not isinstance(encoder, TokenEncoder) or not getattr(encoder, "gives_tokens", True):
            raise InputError(
                f"late interaction needs a vector for each token, and {encoder.fingerprint} gives one for a text; use "
                "SentenceTransformersEncoder, or OnnxEncoder with a model that gives them"
            )
        self.encoder = encoder
        self._dimensions, self._shortlist = dimensions, shortlist
        self.fingerprint = f"late:{_SHARPNESS}:{dimensions}:shortlist={shortlist}:{encoder.fingerprint}"

    def prepare(self, items: Sequence[str], kept: Kept | None = None) -> BoundLateInteraction:
        """Embed the items' tokens, unless they are kept.

        Raises:
            InputError: what is kept is of other items, or the encoder gave something else than a text's token vectors.
        """
        if kept is not None:
            if not kept.keys() >= {"tokens", "starts", "centre", "axes"} or len(kept["starts"]) != len(items):
                raise InputError(f"what was kept ({', '.join(kept)}) is not of {len(items)} items' tokens")
            arrays = (kept[name] for name in ("tokens", "starts", "centre", "axes"))
            return BoundLateInteraction(self.encoder, self._shortlist, *arrays)
        tokens = _tokens_of(self.encoder, items)
        centre, axes = _principal(tokens, self._dimensions)
        narrow = [_narrowed(of_item, centre, axes) for of_item in tokens]
        return BoundLateInteraction(self.encoder, self._shortlist, *_stacked(narrow, axes), centre, axes)


class BoundLateInteraction:
    """The items' tokens, embedded.

    Args:
        encoder: embeds queries.
        shortlist: how many items' tokens :meth:`scores_after` looks at.
        tokens: (n_tokens, dimensions) float32 unit vectors, an item's behind one another.
        starts: (n_items,) where each item's begin; every item has one.
        centre: (d,) mean of the encoder's own, each of length 1.
        axes: (d, dimensions) what narrows them to so many.
    """

    def __init__(
        self,
        encoder: TokenEncoder,
        shortlist: int,
        tokens: np.ndarray[Any, Any],
        starts: np.ndarray[Any, Any],
        centre: np.ndarray[Any, Any],
        axes: np.ndarray[Any, Any],
    ) -> None:
        self._encoder, self.shortlist = encoder, shortlist
        self._tokens, self._starts = tokens, np.asarray(starts)
        self._lengths = np.diff(self._starts, append=len(tokens))
        self._centre, self._axes = np.asarray(centre), np.asarray(axes)

    @property
    def kept(self) -> Kept:
        """``tokens``, ``starts``, ``centre`` and ``axes``."""
        return {"tokens": self._tokens, "starts": self._starts, "centre": self._centre, "axes": self._axes}

    def updated(self, items: Sequence[str], rows: IntArray) -> BoundLateInteraction:
        """Embeds the new items' tokens, less the mean and in the axes of those that were there first."""
        centre, axes = self._centre, self._axes
        new = iter([_narrowed(t, centre, axes) for t in _tokens_of(self._encoder, new_texts(items, rows))])
        starts, ends = self._starts, self._starts + self._lengths
        each = [next(new) if row < 0 else np.asarray(self._tokens[starts[row] : ends[row]]) for row in rows]
        return BoundLateInteraction(self._encoder, self.shortlist, *_stacked(each, axes), centre, axes)

    def scores(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, n_items) above 0, and 1 for equal tokens."""
        scores = np.empty((len(queries), len(self._starts)), dtype=np.float32)
        for row, query in zip(scores, queries, strict=True):
            row[:] = self.scores_of(query, np.arange(len(row))) if len(row) else 0
        return scores

    def scores_after(self, queries: Sequence[str], others: FloatArray, allowed: BoolArray | None = None) -> FloatArray:
        """``scores`` of the best by (n_queries, n_items) other scores, ``shortlist`` of the (n_items,) allowed; of the
        others what a line through these says, by least squares. All have their own where there are no more items."""
        if len(self._starts) <= self.shortlist:
            return self.scores(queries)
        scores = np.empty((len(queries), len(self._starts)), dtype=np.float32)
        for row, query, other in zip(scores, queries, others, strict=True):
            best = np.sort(top_k(other, self.shortlist, allowed))
            told = self.scores_of(query, best)
            slope, constant = _line(other[best], told)
            row[:] = slope * other + constant
            row[best] = told
        return scores

    def scores_of(self, query: str, items: IntArray) -> FloatArray:
        """(len(items),) ``scores`` of some items."""
        (own,) = self._encoder.embed_tokens([query])  # alone: its digits must not depend on other queries
        asked = _narrowed(_unit(_checked(own)), self._centre, self._axes).T
        scores = np.empty(len(items), dtype=np.float32)
        ends = np.cumsum(self._lengths[items])
        first = 0
        while first < len(items):  # whole items at a time, so that their tokens stay in the cache
            before = ends[first - 1] if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _AT_ONCE, side="right")))
            some = items[first:last]
            starts = ends[first:last] - self._lengths[some] - before
            rows: Any = np.repeat(self._starts[some] - starts, self._lengths[some]) + np.arange(ends[last - 1] - before)
            if (np.diff(some) == 1).all():
                rows = slice(rows[0], rows[-1] + 1)  # side by side: nothing to gather
            near = self._tokens[rows] @ asked
            of_query = _nearness(np.maximum.reduceat(near, starts, axis=0)).mean(axis=1)
            of_items = np.add.reduceat(_nearness(near.max(axis=1)), starts) / self._lengths[some]
            scores[first:last] = (of_query + of_items) / 2
            first = last
        return scores


def _nearness(cosines: FloatArray) -> FloatArray:
    nearness: FloatArray = np.exp(_SHARPNESS * (cosines - 1))
    return nearness


def _line(x: FloatArray, y: FloatArray) -> tuple[float, float]:
    """Slope, never negative, and constant of the least squares line; zeros for no points."""
    if not len(x):
        return 0.0, 0.0
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    varied = np.ptp(x) > 0
    slope = max(0.0, float(np.mean((x - x.mean()) * (y - y.mean())) / x.var())) if varied else 0.0
    return slope, float(y.mean() - slope * x.mean())


def _tokens_of(encoder: TokenEncoder, items: Sequence[str]) -> list[FloatArray]:
    """Each item's, (n_tokens, d) of length 1."""
    tokens = [_unit(_checked(of_item)) for of_item in encoder.embed_tokens(items)] if items else []
    if len(tokens) != len(items):
        raise InputError(f"the encoder gave tokens of {len(tokens)} texts, and there are {len(items)} items")
    return tokens


def _narrowed(tokens: FloatArray, centre: FloatArray, axes: FloatArray) -> FloatArray:
    """(n_tokens, dimensions) of length 1, of a text's (n_tokens, d)."""
    return _unit((tokens - centre) @ axes)


def _stacked(narrow: Sequence[FloatArray], axes: FloatArray) -> tuple[FloatArray, IntArray]:
    """All items' tokens behind one another, and where each item's begin."""
    stacked = np.vstack(narrow) if narrow else np.zeros((0, axes.shape[1]), dtype=np.float32)
    return stacked, np.cumsum([0, *map(len, narrow)])[:-1]


def _checked(tokens: FloatArray) -> FloatArray:
    """A text's token vectors; one of zeros where it has none."""
    given = np.asarray(tokens, dtype=np.float32)
    if given.ndim != 2 or not np.isfinite(given).all():
        raise InputError(f"the encoder gave token vectors of shape {given.shape}, or not finite ones")
    return given if len(given) else np.zeros((1, given.shape[1]), dtype=np.float32)


def _unit(vectors: FloatArray) -> FloatArray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: FloatArray = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return unit


def _principal(tokens: Sequence[FloatArray], dimensions: int) -> tuple[FloatArray, FloatArray]:
    """(d,) mean and (d, dimensions) principal axes of some texts' tokens, from a sample of the texts."""
    if not tokens:
        return np.zeros(1, dtype=np.float32), np.ones((1, 1), dtype=np.float32)
    total = sum(map(len, tokens))
    sample = np.vstack(tokens[:: max(1, total // _SAMPLED)]).astype(np.float64)
    centre = sample.mean(axis=0)
    sample -= centre
    axes = np.linalg.eigh(sample.T @ sample)[1][:, ::-1][:, :dimensions]
    return centre.astype(np.float32), axes.astype(np.float32)
