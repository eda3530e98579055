"""LlamaIndex (extra ``llama-index``): a retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crossknn.errors import import_extra
from crossknn.integrations._searching import details, searcher, settings

import_extra("llama_index.core", "llama-index")

from llama_index.core.retrievers import BaseRetriever  # noqa: E402
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode  # noqa: E402

if TYPE_CHECKING:
    from crossknn.integrations._searching import Searcher


class CrossKNNRetriever(BaseRetriever):
    """The cross-encoder's best items as scored nodes; ``metadata`` has an item's own, and where it was found.

    Args:
        index: an :class:`~crossknn.Index`, a :class:`~crossknn.client.Client`, or the URL of a service.
        k: nodes per query.
        budget: CE calls per query; None is the index's own.
        target_recall: stop where so much is expected to be found (:meth:`crossknn.Index.search`).
        method: name of a search method.
        filter: conditions on the items' metadata (:mod:`crossknn.metadata`).
        more: passed on to LlamaIndex's ``BaseRetriever``.

    Errors and cost are those of :meth:`crossknn.Index.search`.
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
        **more: Any,
    ) -> None:
        self._index = searcher(index)
        self._settings = settings(k, budget, target_recall, method, filter)
        super().__init__(**more)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._index.search(query_bundle.query_str, **self._settings)
        return [
            NodeWithScore(node=TextNode(id_=hit.id, text=hit.text, metadata=details(hit)), score=hit.score)
            for hit in found
        ]
