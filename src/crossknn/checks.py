"""What a caller passes in, checked: each function gives it back in the form the index works with, or an InputError."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from crossknn.arrays import BoolArray, IntArray
from crossknn.errors import InputError


def named_items(items: Mapping[str, str] | Sequence[str]) -> dict[str, str]:
    """Items as id to text; a list of texts is numbered from "0"."""
    if isinstance(items, str):
        raise InputError("items must be a list of texts or a mapping from id to text, got one string")
    pairs = items.items() if isinstance(items, Mapping) else ((str(n), text) for n, text in enumerate(items))
    named = dict(pairs)
    if not named:
        raise InputError("there are no items to index")
    for key, text in named.items():
        if not isinstance(key, str) or not key:
            raise InputError(f"item ids must be texts that are not empty, got {key!r}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"item {key!r} has no text (got {text!r}); leave it out or give it one")
        check_unicode(f"item {key!r}", text)
        check_unicode("an item id", key)
    return named


def checked_removal(ids: Collection[str], known: Collection[str], changed: Collection[str]) -> set[str]:
    """Ids of items to be removed: each is there, and is not to be changed at the same time."""
    if isinstance(ids, str):
        raise InputError(f"ids to remove must be a list of them, got one text, {ids!r}")
    for item_id in ids:
        if item_id not in known:
            raise InputError(f"the item {item_id!r} cannot be removed: the index does not have it")
        if item_id in changed:
            raise InputError(f"the item {item_id!r} is to be changed and to be removed; choose one")
    return set(ids)


def checked_queries(queries: Sequence[str]) -> list[str]:
    """Queries as a list of texts that are not empty."""
    if isinstance(queries, str | Mapping):
        got = "one string; for one query use search" if isinstance(queries, str) else "a mapping"
        raise InputError(f"queries must be a list of texts, got {got}")
    texts = list(queries)
    for query in texts:
        if not isinstance(query, str) or not query.strip():
            raise InputError(f"a query must be a text that is not empty, got {query!r}")
        check_unicode("a query", query)
    return texts


def checked_notes(notes: Mapping[str, str] | None) -> dict[str, str]:
    """What is to be kept with an index: texts by name."""
    named = {} if notes is None else notes
    if not isinstance(named, Mapping) or not all(isinstance(part, str) for pair in named.items() for part in pair):
        raise InputError(f"notes must map names to texts, got {notes!r:.120}")
    return dict(named)


def check_unicode(what: str, text: str) -> None:
    """Refuse half characters, which JSON can spell and no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{what} is no valid Unicode ({error.reason}): {text[:80]!r}") from None


def check_count(name: str, value: int) -> None:
    """A whole number of at least 1."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")


def checked_positions(name: str, given: ArrayLike, n: int, n_pairs: int | None = None) -> IntArray:
    """Whole numbers below n, as many as there are pairs."""
    try:
        some = np.asarray(given)
    except ValueError as error:
        raise InputError(f"{name} must be a list of whole numbers, one for each pair ({error})") from error
    whole = some.ndim == 1 and (np.issubdtype(some.dtype, np.integer) or not some.size)
    if not whole or n_pairs not in (None, len(some)) or (some.size and not 0 <= some.min() <= some.max() < n):
        raise InputError(f"{name} must be whole numbers from 0 to {n - 1}, one for each pair, got {some!r:.120}")
    return some.astype(np.int64)


def checked_filter(mask: ArrayLike | None, n_items: int) -> BoolArray | None:
    """A mask over the items, or None."""
    if mask is None:
        return None
    allowed = np.asarray(mask)
    if allowed.dtype != bool or allowed.shape != (n_items,):
        raise InputError(
            f"a filter must hold one boolean for each of the {n_items} items, got {allowed.dtype} {allowed.shape}"
        )
    return allowed
