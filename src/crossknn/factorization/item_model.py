"""What indexing leaves behind for the search: a vector for every item, and the scale they speak in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError


@dataclass(frozen=True)
class Normalisation:
    """CE scores mapped to the range of the first stage's, ``s' = scale (s - shift)`` (paper, appendix A.4).

    Order is kept, so no ranking changes; a fit does, since vectors of unit length cannot reach logits of -10.
    """

    scale: float = 1.0
    shift: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.scale) and np.isfinite(self.shift) and self.scale > 0):
            raise InputError(f"a normalisation needs a finite scale above 0 and a finite shift, got {self}")

    @classmethod
    def matching(cls, scores: FloatArray, reference: FloatArray) -> Normalisation:
        """The one that gives ``scores`` the mean and standard deviation of ``reference`` (same cells, any shape)."""
        varied = np.ptp(scores) > 0 and np.ptp(reference) > 0
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
class ItemModel:
    """Predicts a query's normalised scores of all items: ``s' = V u + c + constant``.

    Attributes:
        vectors: ``V`` (n_items, d) float32, possibly memory-mapped.
        biases: ``c`` (n_items,) float32, how much better an item scores than its vector says, for any query.
        normalisation: of CE scores.
        follows_first_stage: whether the first stage's query vectors live in the same space, and predict scores.
    """

    vectors: FloatArray
    biases: FloatArray
    normalisation: Normalisation = Normalisation()
    follows_first_stage: bool = True

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.biases.shape != (len(self.vectors),):
            raise InputError(
                f"item vectors of shape {self.vectors.shape} do not fit biases of shape {self.biases.shape}"
            )

    @classmethod
    def from_vectors(cls, vectors: FloatArray) -> ItemModel:
        """Item vectors as they are, with no bias and no normalisation: the dual encoder's, when nothing was learned."""
        return cls(vectors, np.zeros(len(vectors), dtype=np.float32))
