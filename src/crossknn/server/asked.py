"""What a client asks for: checked, and made into jobs."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from crossknn.checks import check_unicode
from crossknn.errors import InputError
from crossknn.search import method_named
from crossknn.server.models import CohereRequest, IdFilter, SearchRequest, TEIRequest
from crossknn.server.options import ServerOptions
from crossknn.server.problems import Problem
from crossknn.server.scheduler import Job
from crossknn.server.service import Served


def jobs_of(asked: SearchRequest, served: Served, options: ServerOptions) -> list[Job]:
    """A job for each query; nothing is opened yet.

    Args:
        asked: what a client wants.
        served: what is searched.
        options: what is allowed.

    Raises:
        Problem: more than is allowed, or a text that cannot be searched for.
        InputError: no such method, item or field.
    """
    queries = [asked.query] if isinstance(asked.query, str) else asked.query
    _at_most("queries", len(queries), min(options.max_queries, options.queue))
    _at_most("k", asked.k, options.max_k)
    _at_most("budget", asked.budget or 1, options.max_budget)
    _check_texts("a query", queries, options.max_text)
    method = None if asked.method is None else method_named(asked.method)
    settings: dict[str, Any] = {
        "k": asked.k,
        "budget": asked.budget or min(served.index.default_budget(asked.k, asked.target_recall), options.max_budget),
        "target_recall": asked.target_recall,
        "max_ms": asked.max_ms,
        "method": method,
        "filter": _mask(asked, served, options.max_filter),
    }
    return [Job(partial(served.index.open_search, query, **settings)) for query in queries]


def check_rerank(asked: CohereRequest | TEIRequest, options: ServerOptions) -> None:
    """Refuse what is more than a service allows.

    Raises:
        Problem: too many documents, or a text that cannot be scored.
    """
    _at_most("documents", len(asked.to_rerank), options.max_documents)
    _check_texts("a query", [asked.query], options.max_text)
    _check_texts("a document", asked.to_rerank, options.max_text, empty=True)


def _at_most(name: str, value: int, most: int) -> None:
    if value > most:
        raise Problem(422, f"{name} is {value}, and {most} is the most here")


def _check_texts(what: str, texts: list[str], most: int, *, empty: bool = False) -> None:
    if not texts:
        raise Problem(422, "there is no query")
    for text in texts:
        if not empty and not text.strip():
            raise Problem(422, f"{what} is empty")
        if len(text) > most:
            raise Problem(422, f"{what} has {len(text)} characters, and {most} is the most here")
        check_unicode(what, text)


def _mask(asked: SearchRequest, served: Served, most: int) -> np.ndarray | None:
    if asked.ids is None and not asked.filter:
        return None
    ids, positions = asked.ids or IdFilter(only=None), served.positions
    _at_most("the number of ids", len(ids.only or []) + len(ids.without), most)
    _at_most("the number of values in the filter", sum(map(_size, (asked.filter or {}).values())), most)
    unknown = [i for i in [*(ids.only or []), *ids.without] if i not in positions]
    if unknown:
        raise InputError(f"there is no item with the id {unknown[0][:100]!r}")
    mask = np.full(len(positions), ids.only is None)
    mask[[positions[i] for i in ids.only or []]] = True
    mask[[positions[i] for i in ids.without]] = False
    return mask & served.index.metadata.mask(asked.filter or {})


def _size(condition: Any) -> int:
    inner = condition.values() if isinstance(condition, dict) else condition if isinstance(condition, list) else ()
    return 1 + sum(map(_size, inner))
