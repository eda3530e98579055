"""What an index asks of a factorization."""

from __future__ import annotations

from typing import Protocol

from crossknn.arrays import FloatArray
from crossknn.errors import InputError, import_extra
from crossknn.factorization.item_model import ItemModel
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs


class Factorization(Protocol):
    """Makes item vectors of scores."""

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """Refuse a plan's pairs that could not be factorized, before they are paid for.

        Args:
            pairs: those to be scored.
            n_items: of the index.
            has_vectors: whether the first stage has vectors.

        Raises:
            InputError: what is missing.
        """
        ...

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """Item vectors, biases and the normalisation of CE scores.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d) the first stage's, if it has any.
            query_vectors: (n_queries, d) those of the train queries, from the same encoder.
            first_stage_scores: (n_observed,) the first stage's own scores of the observed pairs, in their order, where
                they are no inner products and worth learning from (:class:`~crossknn.first_stage.base.PairFirstStage`).

        Raises:
            InputError: scores that cannot be factorized in this way.

        Cost: no CE call.
        """
        ...


def check_shapes(scores: ScoreMatrix, item_vectors: FloatArray, query_vectors: FloatArray) -> None:
    """One vector for every item and query, all of one width.

    Raises:
        InputError: the shapes that do not fit.
    """
    fits = (len(query_vectors), len(item_vectors)) == scores.shape
    if not fits or query_vectors.shape[1] != item_vectors.shape[1]:
        shapes = f"{query_vectors.shape} and {item_vectors.shape}"
        raise InputError(f"vectors of shape {shapes} do not fit scores of shape {scores.shape}")


def check_device(device: str) -> None:
    """Make sure that torch can compute on a device.

    Raises:
        InputError: it cannot.
        MissingExtraError: torch is not installed.
    """
    torch = import_extra("torch", "torch")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        raise InputError(f"torch cannot use the device {device!r} here: {str(error).splitlines()[0]}") from error
