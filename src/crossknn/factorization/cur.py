"""CUR: dense rows of the score matrix as item vectors (ANNCUR, EMNLP 2022; adaCUR, EMNLP Findings 2023).

With ``R`` the scores of ``k_q`` anchor queries for all items, and ``C`` a new query's scores of the items ``A`` seen so
far, CUR approximates its scores of all items by ``C R_A^+ R``. The weights ``w = C R_A^+`` of the anchor queries are
the min-norm solution of ``R_A^T w = C``: eq. 4 of the AXN paper, with the columns of ``R`` as item vectors. So CUR
needs no search of its own: AXN with :class:`~crossknn.search.MinNorm` over these vectors is adaCUR, and with two
rounds, the first of them random items that are the same for every query, ANNCUR.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from crossknn.arrays import FloatArray
from crossknn.errors import InputError
from crossknn.factorization.item_model import ItemModel
from crossknn.scores.matrix import ScoreMatrix
from crossknn.scores.plan import Pairs


@dataclass(frozen=True)
class CUR:
    """Item vectors are columns of dense anchor rows: what the anchor queries think of each item.

    Needs train queries with all their scores (the plan :class:`~crossknn.scores.AllItems`): ``n_items`` CE calls for
    each. Queries with fewer are passed over.
    """

    def check(self, pairs: Pairs, n_items: int, *, has_vectors: bool) -> None:
        """See :class:`~crossknn.factorization.Factorization`: one query at least has every item.

        Raises:
            InputError: none has.
        """
        if not (np.bincount(pairs.query_indices, minlength=1) == n_items).any():
            raise InputError(
                f"CUR needs train queries scored against all {n_items:,} items, and the plan has none; take the plan "
                f"AllItems() (--plan all-items), and a cap of {n_items:,} calls or more"
            )

    def fit(
        self,
        scores: ScoreMatrix,
        item_vectors: FloatArray | None = None,
        query_vectors: FloatArray | None = None,
        first_stage_scores: FloatArray | None = None,
    ) -> ItemModel:
        """See :class:`~crossknn.factorization.Factorization`; the first stage's vectors and scores are not used.

        Raises:
            InputError: no query has all its scores.
        """
        n_items = scores.shape[1]
        self.check(scores.pairs, n_items, has_vectors=item_vectors is not None)
        dense = [cells for _, cells in scores.by_query() if len(cells) == n_items]
        rows = np.stack([scores.values[cells] for cells in dense])
        vectors = np.ascontiguousarray(rows.T, dtype=np.float32)
        return ItemModel(vectors, np.zeros(n_items, dtype=np.float32), follows_first_stage=False)
