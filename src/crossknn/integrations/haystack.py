"""Haystack (extra ``haystack``): a retriever component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crossknn.errors import InputError, import_extra
from crossknn.integrations._searching import details, searcher, settings

import_extra("haystack", "haystack")

from haystack import Document, component, default_from_dict, default_to_dict  # noqa: E402

if TYPE_CHECKING:
    from crossknn.integrations._searching import Searcher


@component
class CrossKNNRetriever:
    """The cross-encoder's best items as scored documents; ``meta`` has an item's metadata and where it was found.

    Args:
        index: an :class:`~crossknn.Index`, a :class:`~crossknn.client.Client`, or the URL of a service; a pipeline can
            be written down with a URL only.
        top_k: documents per query.
        budget: CE calls per query; None is the index's own.
        target_recall: stop where so much is expected to be found (:meth:`crossknn.Index.search`).
        method: name of a search method.
        filter: conditions on the items' metadata (:mod:`crossknn.metadata`).

    Errors and cost are those of :meth:`crossknn.Index.search`.
    """

    def __init__(
        self,
        index: Searcher | str,
        top_k: int = 10,
        budget: int | None = None,
        target_recall: float | None = None,
        method: str | None = None,
        filter: dict[str, Any] | None = None,
    ) -> None:
        self._given, self._index = index, searcher(index)
        self.top_k, self.budget, self.target_recall = top_k, budget, target_recall
        self.method, self.filter = method, filter

    def to_dict(self) -> dict[str, Any]:
        """As Haystack writes pipelines down.

        Raises:
            InputError: the index is an object, not the URL of a service.
        """
        if not isinstance(self._given, str):
            raise InputError(
                "an Index or Client cannot be written down with a pipeline: serve the index (crossknn serve) and give "
                "the retriever its URL"
            )
        named = {name: getattr(self, name) for name in ("top_k", "budget", "target_recall", "method", "filter")}
        plain: dict[str, Any] = default_to_dict(self, index=self._given, **named)
        return plain

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> CrossKNNRetriever:
        """The retriever that was written down."""
        made: CrossKNNRetriever = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document], calls=int)
    def run(self, query: str, top_k: int | None = None, budget: int | None = None) -> dict[str, Any]:
        """Search once.

        Args:
            query: its text.
            top_k: instead of the component's own.
            budget: instead of the component's own.

        Returns:
            ``documents``, best first, and ``calls``, the CE calls spent.
        """
        wanted = settings(top_k or self.top_k, budget or self.budget, self.target_recall, self.method, self.filter)
        found = self._index.search(query, **wanted)
        documents = [Document(id=hit.id, content=hit.text, score=hit.score, meta=details(hit)) for hit in found]
        return {"documents": documents, "calls": found.calls}
