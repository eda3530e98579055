"""PyTerrier (extra ``pyterrier``): a transformer from queries to results. Needs no Java."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossknn.errors import import_extra
from crossknn.integrations._searching import searcher, settings

import_extra("pyterrier", "pyterrier")

import pandas as pd  # noqa: E402
import pyterrier as pt  # noqa: E402

if TYPE_CHECKING:
    from crossknn.integrations._searching import Searcher

_FOUND = ["docno", "text", "score", "rank", "iteration", "first_stage_rank"]


class CrossKNNRetriever(pt.Transformer):
    """``qid, query`` to ``qid, query, docno, text, score, rank, iteration, first_stage_rank``.

    ``iteration`` is the round that scored the item, from 0 as in pyterrier-adaptive; ranks are from 0 as everywhere in
    PyTerrier.

    Args:
        index: an :class:`~crossknn.Index`, a :class:`~crossknn.client.Client`, or the URL of a service.
        k: results per query.
        budget: CE calls per query; None is the index's own.
        target_recall: stop where so much is expected to be found (:meth:`crossknn.Index.search`).
        method: name of a search method.
        filter: conditions on the items' metadata (:mod:`crossknn.metadata`).

    Errors and cost are those of :meth:`crossknn.Index.search_batch`.
    """

    def __init__(
        self,
        index: Searcher | str,
        *,
        k: int = 10,
        budget: int | None = None,
        target_recall: float | None = None,
        method: str | None = None,
        filter: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._index = searcher(index)
        self._settings = settings(k, budget, target_recall, method, filter)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Search for every row; its columns are kept, but for those that the answer has."""
        pt.validate.query_frame(inp, ["query"])
        texts = inp["query"].tolist()
        results = self._index.search_batch(texts, **self._settings) if texts else []
        rows = [
            (hit.id, hit.text, hit.score, rank, hit.round - 1, hit.first_stage_rank)
            for result in results
            for rank, hit in enumerate(result)
        ]
        kept = inp.drop(columns=[name for name in _FOUND if name in inp])
        repeated = kept.iloc[[row for row, result in enumerate(results) for _ in result]].reset_index(drop=True)
        return pd.concat([repeated, pd.DataFrame(rows, columns=_FOUND)], axis=1)
