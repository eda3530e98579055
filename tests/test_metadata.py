from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crossknn.errors import InputError
from crossknn.metadata import Metadata, checked_metadata

ROWS = [
    {"part": "eye", "year": 1999, "tags": ["old", "rare"], "seen": True},
    {"part": "ear", "year": 2005, "tags": ["new"]},
    {"part": "eye", "year": 2010.5, "seen": False},
    {},
    {"part": "1", "year": None, "tags": []},
]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, [0, 1, 2, 3, 4]),
        ({"part": "eye"}, [0, 2]),
        ({"part": ["ear", "1"]}, [1, 4]),
        ({"part": []}, []),
        ({"part": "nose"}, []),
        ({"tags": "rare"}, [0]),
        ({"tags": ["rare", "new"]}, [0, 1]),
        ({"part": {"not": "eye"}}, [1, 3, 4]),
        ({"tags": {"not": ["rare", "new"]}}, [2, 3, 4]),
        ({"year": 2005.0}, [1]),
        ({"year": {"gte": 2005}}, [1, 2]),
        ({"year": {"gt": 1999, "lt": 2010.5}}, [1]),
        ({"year": {"lte": 2005, "not": 1999}}, [1]),
        ({"part": {"gte": "ear", "lte": "eye"}}, [0, 1, 2]),
        ({"seen": True}, [0]),
        ({"part": "eye", "year": {"lt": 2000}}, [0]),
    ],
)
def test_known_answers(conditions: dict[str, Any], expected: list[int]) -> None:
    assert np.flatnonzero(Metadata(ROWS).mask(conditions)).tolist() == expected


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"colour": "red"}, "no item has the field 'colour'; the fields are 'part', 'year', 'tags', 'seen'"),
        ({"part": 1}, "'part' is a field of text, not of number; got 1"),
        ({"year": "1999"}, "'year' is a field of number, not of text"),
        ({"year": True}, "not of boolean"),
        ({"year": {"gte": [1999]}}, r"must be a text, a finite number or a boolean, or a list of these; got \[1999\]"),
        ({"year": {"above": 1}}, r"may have gt, gte, lt, lte and not, and got \['above'\]"),
        ({"year": {}}, "got nothing"),
        ({"year": float("nan")}, "finite number"),
    ],
)
def test_bad_conditions_say_what_would_do(conditions: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Metadata(ROWS).mask(conditions)


def test_an_index_without_metadata_says_so() -> None:
    with pytest.raises(InputError, match="none: the index was built without metadata"):
        checked_metadata(None, ["a"]).mask({"part": "eye"})


@pytest.mark.parametrize(
    ("given_rows", "message"),
    [
        ({"c": {}}, "the item 'c', and no such item"),
        ({"a": "eye"}, "item 'a' must map names to values, got 'eye'"),
        ({"a": {"": 1}}, "must map names"),
        ({"a": {"part": {"nested": 1}}}, "a value of 'part' must be a text"),
        ({"a": {"year": float("inf")}}, "a value of 'year' must be"),
        ({"a": {"part": ["\ud800"]}}, "metadata of item 'a' is no valid Unicode"),
        ({"a": {"\ud800": 1}}, "metadata of item 'a' is no valid Unicode"),
        (["a"], "must map item ids to fields, got list"),
    ],
)
def test_bad_metadata_is_refused(given_rows: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        checked_metadata(given_rows, ["a", "b"])


def test_values_are_counted_most_frequent_first() -> None:
    assert Metadata(ROWS).values("part") == [("eye", 2), ("ear", 1), ("1", 1)]
    twice = Metadata([{"x": ["a", "a"]}, {"x": [True, 1]}, {"x": 1.0}])
    assert [(str(value), n) for value, n in twice.values("x")] == [("1", 2), ("a", 1), ("True", 1)]


def test_numbers_of_numpy_are_numbers() -> None:
    metadata = Metadata([{"n": np.int64(3), "yes": np.bool_(True), "x": (np.float32(0.5),)}])
    assert json.dumps(list(metadata)) == '[{"n": 3, "yes": true, "x": [0.5]}]'
    assert metadata.mask({"n": {"gte": np.float64(2.5)}, "yes": True}).tolist() == [True]


_VALUE = st.integers(-3, 3)


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("xy"), st.one_of(_VALUE, st.lists(_VALUE, max_size=3)))),
    low=_VALUE,
    high=_VALUE,
    banned=st.lists(_VALUE, max_size=2),
)
def test_equals_looking_at_every_item(rows: list[Any], low: int, high: int, banned: list[int]) -> None:
    metadata = Metadata([*rows, {"x": 0}])
    found = metadata.mask({"x": {"gte": low, "lt": high, "not": banned}})
    for row, is_found in zip(metadata, found, strict=True):
        value = row.get("x", [])
        values = value if isinstance(value, list) else [value]
        assert is_found == (any(low <= v < high for v in values) and not any(v in banned for v in values))
