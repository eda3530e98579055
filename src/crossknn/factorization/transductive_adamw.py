"""MF_Trns as the paper fits it (section 2.1): AdamW on the observed cells, by torch.

The loss is that of :mod:`~crossknn.factorization.transductive`, squared errors of the normalised scores on the observed
cells, without its ridges and biases, as in the paper: what keeps vectors near their start is that the epochs are few.
The closed form is quicker and has no learning rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError, import_extra
from crossknn.factorization.base import check_device, check_shapes
from crossknn.factorization.item_model import ItemModel, Normalisation
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs


@dataclass(frozen=True)
class MFTransductiveAdamW:
    """MF_Trns by gradient: free query and item vectors that start at the first stage's (extra ``torch``).

    Without weight decay, so items that were never scored stay where they are.

    Attributes:
        epochs: passes over the cells (paper: 10 to 20).
        learning_rate: of AdamW, constant (paper: 0.001 to 0.005).
        batch_size: cells in a step.
        seed: of the order.
        device: of torch.
    """

    epochs: int = 10
    learning_rate: float = 1e-3
    batch_size: int = 1024
    seed: int = 0
    device: str = "cpu"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise InputError(f"learning_rate must be above 0, got {self.learning_rate}")

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`: vectors to start from, and a pair.

        Raises:
            InputError: the first stage has no vectors, there is no pair, or torch lacks the device.
            MissingExtraError: torch is not installed.
        """
        import_extra("torch", "torch")
        if not has_vectors:
            raise InputError("MF by AdamW starts from the first stage's vectors; give a dense first stage")
        check_device(self.device)
        if not len(pairs):
            raise InputError("there is no score to factorize; give train queries and a plan that scores some pairs")

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`.

        Args:
            scores: observed CE scores, (n_queries, n_items).
            item_vectors: (n_items, d), needed.
            query_vectors: (n_queries, d), needed.
            first_stage_scores: not used.

        Raises:
            InputError: no vectors, or shapes that do not fit.
            MissingExtraError: torch is not installed.

        Cost: no CE call.
        """
        given = item_vectors is not None and query_vectors is not None
        self.check(scores.pairs, scores.shape[1], has_vectors=given)
        assert item_vectors is not None  # as just checked
        assert query_vectors is not None
        check_shapes(scores, item_vectors, query_vectors)
        products = np.sum(query_vectors[scores.query_indices] * item_vectors[scores.item_indices], axis=1)
        normalisation = Normalisation.matching(scores.values, products)
        vectors = _fitted(self, scores, normalisation.apply(scores.values), item_vectors, query_vectors)
        return ItemModel(vectors, np.zeros(len(vectors), dtype=np.float32), normalisation)


def _fitted(
    options: MFTransductiveAdamW,
    scores: ScoreMatrix,
    targets: FloatArray,
    item_vectors: FloatArray,
    query_vectors: FloatArray,
) -> FloatArray:
    """Item vectors after the last epoch."""
    torch = import_extra("torch", "torch")
    u, v = (
        torch.tensor(np.array(a, dtype=np.float32), device=options.device, requires_grad=True)
        for a in (query_vectors, item_vectors)
    )
    rows, columns, values = (
        torch.as_tensor(np.array(a), device=options.device)
        for a in (scores.query_indices, scores.item_indices, targets.astype(np.float32))
    )
    optimizer = torch.optim.AdamW([u, v], lr=options.learning_rate, weight_decay=0.0)
    for epoch in range(options.epochs):
        order = torch.as_tensor(np.random.default_rng((options.seed, epoch)).permutation(len(targets)))
        for cells in order.split(options.batch_size):
            optimizer.zero_grad()
            predicted = (u[rows[cells]] * v[columns[cells]]).sum(1)
            ((values[cells] - predicted) ** 2).mean().backward()
            optimizer.step()
    fitted: FloatArray = v.detach().cpu().numpy()
    return fitted
