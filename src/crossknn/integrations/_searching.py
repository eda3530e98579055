"""What the retrievers share: settings of a search, and what they tell of a hit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from crossknn.client import Client
from crossknn.errors import InputError
from crossknn.index import Index
from crossknn.results import Hit

Searcher: TypeAlias = "Index | Client"
"""What is searched: an index in this process, or a service."""


def searcher(index: object) -> Searcher:
    """An index, a client, or the client of a service's URL.

    Raises:
        InputError: it is none of these.
    """
    if isinstance(index, str) and index.startswith(("http://", "https://")):
        return Client(index)
    if isinstance(index, Index | Client):
        return index
    raise InputError(f"expected an Index, a Client, or the URL of a crossknn service, got {index!r}")


def settings(
    k: int,
    budget: int | None,
    target_recall: float | None,
    method: str | None,
    filter: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """Arguments of ``search``; what is None is left to it."""
    given = {"k": k, "budget": budget, "target_recall": target_recall, "method": method, "filter": filter}
    return {name: value for name, value in given.items() if value is not None}


def details(hit: Hit) -> dict[str, Any]:
    """Metadata of a hit beside its id, text and score."""
    return {**hit.metadata, "round": hit.round, "first_stage_rank": hit.first_stage_rank}
