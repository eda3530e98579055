"""What indexing leaves behind for the search: a vector for every item, and the scale they speak in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from crossknn.arrays import FloatArray, IntArray
from crossknn.errors import InputError


@dataclass(frozen=True)
class Normalisation:
    """CE scores mapped to the range of the first stage's, ``s' = scale (s - shift)`` (paper, appendix A.4).

    Order is kept, so no ranking changes; a fit does, since vectors of unit length cannot reach logits of -10.

    >>> fitted = Normalisation.matching(np.array([-10.0, 0.0, 10.0]), np.array([0.1, 0.2, 0.3]))
    >>> fitted.apply(np.array([10.0])).round(3).tolist()
    [0.3]
    """

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.shift) and self.scale > 0):
            raise InputError(f"a normalisation needs a finite scale above 0 and a finite shift, got {self}")

    @classmethod
    def matching(cls, scores: FloatArray, reference: FloatArray) -> Normalisation:
        """The one that gives ``scores`` the mean and standard deviation of ``reference`` (same cells, any shape)."""
        # equal numbers may have a standard deviation by rounding, and numbers near zero none
        varied = all(np.ptp(some) > 0 and np.std(some) > 0 for some in (scores, reference))
        scale = float(np.std(reference) / np.std(scores)) if varied else 1.0
        return cls(scale=scale, shift=float(np.mean(scores)) - float(np.mean(reference)) / scale)

    def apply(self, scores: FloatArray) -> FloatArray:
        """CE scores to normalised ones."""
        normalised: FloatArray = self.scale * (scores - self.shift)
        return normalised

    def invert(self, normalised: FloatArray) -> FloatArray:
        """Normalised scores to CE scores."""
        scores: FloatArray = normalised / self.scale + self.shift
        return scores


@dataclass(frozen=True)
class GatedMLP:
    """Two layers on a frozen encoder's vectors, with a gated skip connection (paper, appendix A.2.2).

    ``out = s x' + (1 - s) x`` with ``x' = W2^T gelu(W1^T x + b1) + b2`` and ``s = sigmoid(skip)``; gelu by tanh.

    Attributes:
        w1, b1: (d, h), (h,).
        w2, b2: (h, d), (d,).
        skip: (1,) the gate before its sigmoid.
    """

    w1: FloatArray
    b1: FloatArray
    w2: FloatArray
    b2: FloatArray
    skip: FloatArray

    def apply(self, vectors: FloatArray) -> FloatArray:
        """(n, d) float32, of (n, d) vectors; a vector's result does not depend on the others."""
        w1, w2 = np.asarray(self.w1, dtype=np.float64), np.asarray(self.w2, dtype=np.float64)
        gate = 1 / (1 + np.exp(-float(self.skip[0])))

        def mixed(x: FloatArray) -> FloatArray:
            inner = x @ w1 + self.b1
            active = 0.5 * inner * (1 + np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3)))
            out: FloatArray = gate * (active @ w2 + self.b2) + (1 - gate) * x
            return out

        return _in_blocks(vectors, vectors.shape[1], mixed)


@dataclass(frozen=True)
class LinearMap:
    """A matrix and an offset: ``out = x M + o``.

    Attributes:
        matrix: (d, d') ``M``.
        offset: (d',) ``o``.
    """

    matrix: FloatArray
    offset: FloatArray

    def apply(self, vectors: FloatArray) -> FloatArray:
        """(n, d') float32, of (n, d) vectors; a vector's result does not depend on the others."""
        matrix = np.asarray(self.matrix, dtype=np.float64)
        return _in_blocks(vectors, len(self.offset), lambda x: x @ matrix + self.offset)


def _in_blocks(vectors: FloatArray, width: int, function: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Rows through a function, always eight at a time (the last padded with zeros): whatever comes beside a row, it is
    computed in the same way to the last bit, and a million rows need no more memory than eight."""
    out = np.empty((len(vectors), width), dtype=np.float32)
    block = np.zeros((8, vectors.shape[1]))
    for start in range(0, len(vectors), 8):
        rows = vectors[start : start + 8]
        block[: len(rows)] = rows
        block[len(rows) :] = 0
        out[start : start + 8] = function(block)[: len(rows)]
    return out


@dataclass(frozen=True, eq=False)
class ItemModel:
    """Predicts a query's normalised scores of all items: ``s' = V u + c + g f + constant``.

    Attributes:
        vectors: ``V`` (n_items, d) float32, possibly memory-mapped.
        biases: ``c`` (n_items,) float32, how much better an item scores than its vector says, for any query.
        normalisation: of CE scores.
        follows_first_stage: whether the first stage's query vectors live in the same space, and predict scores.
        query_map: what takes them there; None if they are there as they are.
        noise: variance of a normalised score around what the best query vector says, where the factorization has
            learned a prior for the query in which it is so; the search ``bayes`` relies on it. None: no prior.
        item_map: what takes items from the first stage's vectors to the space of ``V``, where that was learned.
        first_stage_weight: ``g``, what one point of the first stage's score ``f`` adds; 0 where ``f`` is an inner
            product of vectors that are in ``V`` anyway.
    """

    vectors: FloatArray
    biases: FloatArray
    normalisation: Normalisation = Normalisation()
    follows_first_stage: bool = True
    query_map: GatedMLP | LinearMap | None = None
    noise: float | None = None
    item_map: GatedMLP | LinearMap | None = None
    first_stage_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.biases.shape != (len(self.vectors),):
            raise InputError(
                f"item vectors of shape {self.vectors.shape} do not fit biases of shape {self.biases.shape}"
            )

    @cached_property
    def lengths(self) -> FloatArray:
        """(n_items,) of the item vectors."""
        lengths: FloatArray = np.sqrt(np.einsum("nd,nd->n", self.vectors, self.vectors))
        return lengths

    def query_vectors(self, vectors: FloatArray | None) -> FloatArray | None:
        """The query vectors ``u_param`` expected before any score is seen; None where there are none.

        Args:
            vectors: (n_queries, d) the first stage's, if it has any.
        """
        if vectors is None or not self.follows_first_stage:
            return None
        return vectors if self.query_map is None else self.query_map.apply(vectors)

    def beside(self, first_stage_scores: FloatArray, items: IntArray | slice = slice(None)) -> FloatArray:
        """What items score beside their vectors' inner products with the query's: ``c + g f``.

        Args:
            first_stage_scores: (..., n) of these items.
            items: (n,) which; all unless given.

        Returns:
            (..., n), or (n,) where the first stage's scores count for nothing.
        """
        if not self.first_stage_weight:
            return self.biases[items]
        return self.biases[items] + self.first_stage_weight * first_stage_scores

    def place(self, vectors: FloatArray) -> FloatArray:
        """Vectors of items that are not in the index and were never scored, in the space of ``V``; their bias is 0.

        Where item vectors were learned as a function of the first stage's, that function's; where each item's was held
        to the first stage's and moved by its own scores, as by :class:`~crossknn.factorization.MFTransductive`, the
        first stage's as it is.

        Args:
            vectors: (n, d) the first stage's, of the new items.

        Returns:
            (n, d) float32.

        Raises:
            InputError: item vectors have nothing to do with the first stage's, as those of CUR.

        Cost: no CE call.
        """
        self.check_places()
        if self.item_map is not None:
            return self.item_map.apply(vectors)
        return np.asarray(vectors, dtype=np.float32)

    def check_places(self) -> None:
        """Whether :meth:`place` can.

        Raises:
            InputError: see there.
        """
        if self.item_map is None and not self.follows_first_stage:
            raise InputError(
                "item vectors were learned from the scores alone, which new items do not have; build the index again, "
                "or over a dense first stage, whose vectors tell where new items belong"
            )

    def updated(self, rows: IntArray, vectors: FloatArray | None) -> ItemModel:
        """The same for other items: new ones are placed (:meth:`place`), the others stay as they are.

        Args:
            rows: (n,) the position that each item has here, -1 for one that is new.
            vectors: (n, d) the first stage's, of all of them; None if it has none.

        Raises:
            InputError: there are new ones, and they cannot be placed.

        Cost: no CE call.
        """
        new, old = rows < 0, rows[rows >= 0]
        placed = np.empty((len(rows), self.vectors.shape[1]), dtype=np.float32)
        biases = np.zeros(len(rows), dtype=np.float32)
        placed[~new], biases[~new] = self.vectors[old], self.biases[old]
        if new.any():
            placed[new] = self.place(np.empty((0, 0)) if vectors is None else vectors[new])
        return replace(self, vectors=placed, biases=biases)

    @classmethod
    def from_vectors(cls, vectors: FloatArray) -> ItemModel:
        """Item vectors as they are, with no bias and no normalisation: the dual encoder's, when nothing was learned."""
        return cls(vectors, np.zeros(len(vectors), dtype=np.float32))
