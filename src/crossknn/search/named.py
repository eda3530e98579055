"""Search methods by the names that the command, reports and a tuned index use."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace

from crossknn.errors import InputError
from crossknn.factorization import ItemModel
from crossknn.search.axn import AXN
from crossknn.search.cur import adacur, anncur
from crossknn.search.gar import GAR
from crossknn.search.regression import BayesianRidge, MinNorm
from crossknn.search.rerank import Rerank
from crossknn.search.rounds import SearchMethod
from crossknn.search.tour import TouR

_BAYES = AXN(rounds=20, solver=BayesianRidge(noise=1.0))

METHODS: Mapping[str, SearchMethod] = {
    "rerank": Rerank(),
    "axn-paper": AXN(rounds=5, solver=MinNorm()),
    "axn": AXN(),
    "bayes": _BAYES,
    "bayes-ucb": replace(_BAYES, ucb=1.5),
    "anncur": anncur(),
    "adacur": adacur(),
    "gar": GAR(),
    "tour-ce": TouR("ce"),
    "tour-mse": TouR("mse"),
}
"""``bayes`` and ``bayes-ucb`` are meant for an index with :class:`~crossknn.factorization.MFSideInformation`,
``anncur`` and ``adacur`` for one with CUR; ``axn-paper`` has the paper's solver."""


def untuned_method(item_model: ItemModel | None) -> SearchMethod:
    """How an index is searched unless it was tuned: ``bayes-ucb`` over a learned prior, AXN over other item vectors,
    else reranking."""
    if item_model is None:
        return METHODS["rerank"]
    return METHODS["axn" if item_model.noise is None else "bayes-ucb"]


METHOD_PATTERN = r"(?P<method>[a-z]+(?:-[a-z]+)*)(?:-r(?P<rounds>\d+))?(?:-m(?P<mixing>0?\.\d+|[01]))?"
"""``METHOD[-rROUNDS][-mMIXING]``, with which longer names begin."""

_NAME = re.compile(METHOD_PATTERN + r"(?P<vectors>/vectors)?")


def method_named(name: str) -> SearchMethod:
    """``METHOD[-rROUNDS][-mMIXING][/vectors]``: one of :data:`METHODS`, perhaps in so many rounds, with so much mixing
    (lambda of eq. 7), its first items by item vectors.

    Raises:
        InputError: no such method, or it has no such setting.

    >>> method_named("axn-r5/vectors").rounds
    5
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise InputError(f"{name!r} is no search method; write METHOD[-rROUNDS][-mMIXING][/vectors], such as axn-r5")
    method, rounds, mixing, vectors = found.groups()
    if method not in METHODS:
        raise InputError(f"there is no method {method!r}; there are {', '.join(METHODS)}")
    return with_settings(
        METHODS[method],
        method,
        None if rounds is None else int(rounds),
        None if mixing is None else float(mixing),
        by_item_vectors=vectors is not None,
    )


def with_settings(
    method: SearchMethod,
    name: str,
    rounds: int | None = None,
    mixing: float | None = None,
    *,
    by_item_vectors: bool = False,
) -> SearchMethod:
    """A method with other rounds or mixing, or with its first items by item vectors; None changes nothing.

    Raises:
        InputError: it has no such setting; `name` is what the message calls it.
    """
    for setting, value in (("rounds", rounds), ("mixing", mixing)):
        if value is not None:
            if setting not in settings_of(method):
                raise InputError(f"{name} has no {setting} to set")
            method = replace(method, **{setting: value})  # type: ignore[type-var]  # it has fields
    if by_item_vectors:
        first = settings_of(method) & {"first_round", "by"}
        if not first:
            raise InputError(f"{name} has no first round by item vectors")
        method = replace(method, **dict.fromkeys(first, "item vectors"))  # type: ignore[type-var]
    return method


def settings_of(method: SearchMethod) -> frozenset[str]:
    """Names of what can be set of a method, such as ``rounds``."""
    return frozenset(field.name for field in fields(method)) if is_dataclass(method) else frozenset()
