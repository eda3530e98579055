"""LangChain (extra ``langchain``): a retriever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossknn.errors import import_extra
from crossknn.integrations._searching import details, searcher, settings

import_extra("langchain_core", "langchain")

from langchain_core.callbacks import CallbackManagerForRetrieverRun  # noqa: E402
from langchain_core.documents import Document  # noqa: E402
from langchain_core.retrievers import BaseRetriever  # noqa: E402
from pydantic import field_validator  # noqa: E402

if TYPE_CHECKING:
    from crossknn.integrations._searching import Searcher


class CrossKNNRetriever(BaseRetriever):
    """The cross-encoder's best items as documents; ``metadata`` has an item's own, its score, and where it was found.

    Attributes:
        index: an :class:`~crossknn.Index`, a :class:`~crossknn.client.Client`, or the URL of a service.
        k: documents per query.
        budget: CE calls per query; None is the index's own.
        target_recall: stop where so much is expected to be found (:meth:`crossknn.Index.search`).
        method: name of a search method.
        filter: conditions on the items' metadata (:mod:`crossknn.metadata`).

    Errors and cost are those of :meth:`crossknn.Index.search`.
    """

    index: Any
    k: int = 10
    budget: int | None = None
    target_recall: float | None = None
    method: str | None = None
    filter: dict[str, Any] | None = None

    @field_validator("index")
    @classmethod
    def _searcher(cls, index: object) -> Searcher:
        return searcher(index)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        found = self.index.search(query, **settings(self.k, self.budget, self.target_recall, self.method, self.filter))
        return [
            Document(id=hit.id, page_content=hit.text, metadata=details(hit) | {"score": hit.score}) for hit in found
        ]
