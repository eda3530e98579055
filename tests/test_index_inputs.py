"""What cannot be used is refused at the door, with a message that says what came, and before a call is spent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crossknn import AXN, BuildOptions, Index
from crossknn.errors import BudgetError, InputError


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("one text", "got one string"),
        ([], "no items"),
        ({}, "no items"),
        (["cat", ""], "item '1' has no text"),
        (["cat", " \t\n"], "item '1' has no text"),
        (["cat", None], "item '1' has no text"),
        ([("id", "cat")], "item '0' has no text"),
        ({"x": ""}, "item 'x' has no text"),
        ({1: "cat"}, "got 1"),
        ({"": "cat"}, "got ''"),
        ({"x": "half \ud800"}, "item 'x' is no valid Unicode"),
        ({"half \ud800": "cat"}, "an item id is no valid Unicode"),
    ],
    ids=str,
)
def test_items(world: Any, items: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.build(items, scorer=world.scorer, first_stage=world.bm25)


@pytest.mark.parametrize(
    ("queries", "message"),
    [
        ("one text", "got one string"),
        (["cat", ""], "got ''"),
        (["cat", "  "], "got '  '"),
        (["cat", 3], "got 3"),
        (["a \udcff"], "no valid Unicode"),
        ({"cat": "dog"}, "got a mapping"),
    ],
    ids=str,
)
def test_queries(world: Any, queries: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.build(world.items, scorer=world.scorer, first_stage=world.bm25, queries=queries)
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    with pytest.raises(InputError, match=message):
        index.search_batch(queries)
    assert not world.calls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k must be a whole number of at least 1, got 0"),
        ({"k": -2}, "k must be a whole number of at least 1, got -2"),
        ({"k": 11, "budget": 10}, "budget is 10, but k=11"),
        ({"budget": 0}, "budget must be a whole number of at least 1, got 0"),
        ({"filter": [True] * 39}, r"each of the 40 items, got bool \(39,\)"),
        ({"filter": [1] * 40}, r"one boolean.*got int64 \(40,\)"),
        ({"filter": [0, 3]}, r"one boolean.*got int64 \(2,\)"),
        ({"filter": np.ones((40, 1), dtype=bool)}, r"\(40, 1\)"),
        ({"filter": True}, r"bool \(\)"),
        ({"method": AXN}, "is no search method"),
        ({"method": 5}, "5 is no search method"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_search(world: Any, arguments: dict[str, Any], message: str) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    with pytest.raises(InputError, match=message):
        index.search(world.queries[0], **arguments)
    assert not world.calls


@pytest.mark.parametrize(
    ("models", "message"),
    [({"scorer": len}, "is no scorer"), ({"first_stage": "bm25"}, "'bm25' is no first stage")],
)
def test_models(world: Any, models: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Index.build(world.items, **({"scorer": world.scorer, "first_stage": world.bm25} | models))


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.zeros((1, 39)), r"the first stage odd gave scores of shape \(1, 39\).*expected were \(1, 40\)"),
        (np.zeros(40), r"shape \(40,\)"),
        ([[0.0] * 41], r"shape \(1, 41\)"),
        (np.where(np.arange(40) == 7, np.nan, 0.0)[None], "no numbers"),
    ],
    ids=["too few", "no matrix", "too many, in lists", "nan"],
)
def test_first_stages_that_give_something_else_than_a_score_for_each_item(
    world: Any, scores: Any, message: str
) -> None:
    class Odd:
        fingerprint = "odd"

        def prepare(self, items: list[str], kept: Any = None) -> Odd:
            return self

        def scores(self, queries: list[str]) -> Any:
            return scores

    index = Index.build(world.items, scorer=world.scorer, first_stage=Odd())
    with pytest.raises(InputError, match=message):
        index.search(world.queries[0], k=1, budget=5)
    assert not world.calls


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"metadata": {"typo": {"a": 1}}}, "no such item"),
        ({"metadata": [("0", {})]}, "must map item ids to fields, got list"),
        ({"notes": {"a": object()}}, "notes must map names to texts"),
    ],
    ids=["metadata of no item", "metadata in a list", "notes"],
)
def test_what_is_kept_beside_items_is_looked_at_before_any_work(
    world: Any, given: dict[str, Any], message: str
) -> None:
    class Unused:
        fingerprint = "unused"

        def prepare(self, items: list[str], kept: Any = None) -> None:
            raise AssertionError("prepared")

    with pytest.raises(InputError, match=message):
        Index.build(world.items, scorer=world.scorer, first_stage=Unused(), **given)
    if "metadata" in given:
        index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
        with pytest.raises(InputError, match=message):
            index.updated({"new": "text"}, **given)


@pytest.mark.parametrize(
    ("rows", "columns"), [([0, 0], [0]), ([0], [-1]), ([0], [40]), ([1], [0]), ([0.5], [0]), ([[0]], [[0]])], ids=str
)
def test_pairs_to_score_are_pairs_of_the_queries_and_items(world: Any, rows: Any, columns: Any) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    with pytest.raises(InputError, match="_indices must be whole numbers from 0 to"):
        index.score(world.queries[:1], rows, columns)
    assert not world.calls
    assert index.score(world.queries[:1], [0, 0], [3, 39]).shape == (2,)


def test_queries_may_come_one_by_one(world: Any) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    found = index.search_batch((query for query in world.queries[:2]), k=1, budget=3)
    assert [result.query for result in found] == world.queries[:2]


def test_an_empty_query_is_refused(world: Any) -> None:
    index = Index.build(world.items, scorer=world.scorer, first_stage=world.bm25)
    with pytest.raises(InputError, match="not empty, got ' '"):
        index.search(" ")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_calls": 0}, BudgetError, "max_calls must be at least 1, got 0"),
        ({"max_calls": -1}, BudgetError, "got -1"),
        ({"max_calls": "5"}, InputError, "max_calls must be a whole number of at least 1, got '5'"),
        ({"shard_size": 0}, InputError, "shard_size must be a whole number of at least 1, got 0"),
    ],
)
def test_build_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        BuildOptions(**options)


def test_filter_of_plain_booleans_and_very_long_texts_work(world: Any) -> None:
    items = [*world.items[:-1], "water " * 20_000]
    scorer = type(world.scorer)(lambda pairs: [float(len(i)) for _, i in pairs], name="lengths")
    index = Index.build(items, scorer=scorer, first_stage=world.bm25)
    mask = [False] * 38 + [True] * 2
    for query in ("water", "water cat " * 1_000):
        assert [hit.id for hit in index.search(query, k=2, budget=2, filter=mask)] == ["39", "38"]
