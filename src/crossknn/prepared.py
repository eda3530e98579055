"""Items made ready for a scorer and a first stage: what learning and searching both begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from crossknn.arrays import BoolArray, FloatArray, IntArray
from crossknn.errors import InputError
from crossknn.factorization import ItemModel
from crossknn.first_stage import Dense, FirstStage, VectorFirstStage, WithVectors
from crossknn.first_stage.base import BoundFirstStage, Kept, kept_of, updated
from crossknn.scorers import Scorer
from crossknn.scorers.base import BoundScorer, prepared
from crossknn.search import Task


class PreparedItems:
    """Items, and what was made of them once.

    Args:
        items: id to text.
        scorer: the cross-encoder.
        first_stage: cheap retrieval.
        bound_scorer, bound_first_stage: made ready for these items already; None does that now.

    Attributes:
        ids: the items' own keys.
        texts: in the same order.
        scorer, first_stage: as given.
        bound_scorer, bound_first_stage: made ready for these items.
    """

    def __init__(
        self,
        items: Mapping[str, str],
        scorer: Scorer,
        first_stage: FirstStage,
        bound_first_stage: BoundFirstStage | None = None,
        bound_scorer: BoundScorer | None = None,
    ) -> None:
        self.ids, self.texts = list(items), list(items.values())
        self.scorer, self.first_stage = scorer, first_stage
        self.bound_first_stage = bound_first_stage or first_stage.prepare(self.texts)
        self.bound_scorer = bound_scorer or prepared(scorer, self.texts)

    def __len__(self) -> int:
        return len(self.ids)

    def over(self, first_stage: FirstStage, kept: Kept | None = None) -> PreparedItems:
        """The same with another first stage, and perhaps what it kept of these items."""
        ready = first_stage.prepare(self.texts, kept)
        items = dict(zip(self.ids, self.texts, strict=True))
        return PreparedItems(items, self.scorer, first_stage, ready, self.bound_scorer)

    def updated(self, items: Mapping[str, str], rows: IntArray) -> PreparedItems:
        """Other items, of which the first stage makes only those ready that are new.

        Args:
            items: id to text.
            rows: (n_items,) the position that each has here, -1 for one that is new.
        """
        ready = updated(self.first_stage, self.bound_first_stage, list(items.values()), rows)
        return PreparedItems(items, self.scorer, self.first_stage, ready)

    @property
    def vectors(self) -> FloatArray | None:
        """(n_items, d) the items' vectors by the first stage; None if it has none."""
        first_stage = self.bound_first_stage
        return first_stage.item_vectors if isinstance(first_stage, VectorFirstStage) else None

    @property
    def kept(self) -> Kept:
        """What the first stage made of the items, such that it need not be made again."""
        return kept_of(self.bound_first_stage)

    def embed_queries(self, queries: Sequence[str]) -> FloatArray | None:
        """(n_queries, d) vectors by the first stage; None if it has none."""
        first_stage = self.bound_first_stage
        return first_stage.embed_queries(queries) if isinstance(first_stage, VectorFirstStage) else None

    def meanings(self, queries: Sequence[str]) -> FloatArray:
        """(n_queries, d) vectors that tell which queries are about the same: a dual encoder's own, whatever stands
        beside them. Spellings beside make queries alike that mean other things."""
        first_stage = self.first_stage.dense if isinstance(self.first_stage, WithVectors) else self.first_stage
        if isinstance(first_stage, Dense):
            return np.asarray(first_stage.encoder.embed(queries), dtype=np.float32)
        vectors = self.embed_queries(queries)
        assert vectors is not None  # nobody asks where there are none
        return vectors

    def first_stage_scores(
        self, queries: Sequence[str], vectors: FloatArray | None, allowed: BoolArray | None = None
    ) -> FloatArray:
        """(n_queries, n_items) scores by the first stage, of queries whose vectors are known if it has any.

        Raises:
            InputError: the first stage gave something else.
        """
        first_stage = self.bound_first_stage
        if isinstance(first_stage, VectorFirstStage) and vectors is not None:
            scores = np.asarray(first_stage.scores_given(queries, vectors, allowed))
        else:
            scores = np.asarray(first_stage.scores(queries))
        if scores.shape != (len(queries), len(self)) or np.isnan(scores).any():
            raise InputError(
                f"the first stage {self.first_stage.fingerprint} gave scores of shape {scores.shape}, or some that are "
                f"no numbers; expected were {(len(queries), len(self))}, one for each query and item"
            )
        return scores

    def task(
        self,
        queries: Sequence[str],
        item_model: ItemModel | None,
        vectors: FloatArray | None,
        allowed: BoolArray | None = None,
    ) -> Task:
        """What a search method gets to see of some queries whose vectors are known. Costs no CE call."""
        return Task(
            queries=queries,
            scorer=self.bound_scorer,
            first_stage_scores=self.first_stage_scores(queries, vectors, allowed),
            item_model=item_model,
            query_vectors=None if item_model is None else item_model.query_vectors(vectors),
            allowed=allowed,
        )
