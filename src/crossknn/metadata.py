"""What is known of items beside their texts, and which of them meet conditions on it.

A condition names a field and what its value must be; of several, all must hold::

    {"chapter": "Injuries"}                      the value, or one of an item's values, is this
    {"chapter": ["Injuries", "Neoplasms"]}       one of these
    {"year": {"gte": 2000, "lt": 2010}}          within bounds (gt, gte, lt, lte), numbers or texts
    {"chapter": {"not": "Injuries"}}             none of an item's values is this, or one of a list of these
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from crossknn.arrays import BoolArray
from crossknn.checks import check_unicode
from crossknn.errors import InputError

Value: TypeAlias = "str | int | float | bool"
"""One value of a field. An item may have several: a list of them."""

Conditions: TypeAlias = "Mapping[str, Any]"
"""Field to condition; the module's docstring has the forms."""

_BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "gt": operator.gt,
    "gte": operator.ge,
    "lt": operator.lt,
    "lte": operator.le,
}


class Metadata(Sequence[Mapping[str, Any]]):
    """The fields of every item.

    Args:
        rows: for each item, in the index's order, field to value or list of values. A value is a text, a finite number
            or a boolean; a field that is None or an empty list is not there.

    Raises:
        InputError: a value is something else.
    """

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        plain = ({name: _plain(value) for name, value in row.items()} for row in rows)
        self._rows = [
            {name: value for name, value in row.items() if value is not None and value != []} for row in plain
        ]
        positions: dict[str, dict[tuple[str, Value], list[int]]] = {}
        for position, row in enumerate(self._rows):
            for name, value in row.items():
                keys = [(_kind(name, one), one) for one in (value if isinstance(value, list) else [value])]
                for key in dict.fromkeys(keys):
                    positions.setdefault(name, {}).setdefault(key, []).append(position)
        self._positions = {
            name: {key: np.array(at, dtype=np.int64) for key, at in of_field.items()}
            for name, of_field in positions.items()
        }

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, position: Any) -> Any:
        return self._rows[position]

    @property
    def fields(self) -> list[str]:
        """Names of the fields that any item has, in the order met."""
        return list(self._positions)

    def values(self, field: str) -> list[tuple[Value, int]]:
        """A field's values, each with the number of items that have it; the most frequent first.

        Raises:
            InputError: no item has this field.
        """
        counted = [(value, len(at)) for (_, value), at in self._field(field).items()]
        return sorted(counted, key=lambda one: -one[1])

    def mask(self, conditions: Conditions) -> BoolArray:
        """(n_items,) true where all conditions hold.

        >>> Metadata([{"part": "eye", "year": 1999}, {"part": "ear"}]).mask({"year": {"lt": 2000}}).tolist()
        [True, False]

        Raises:
            InputError: no item has a field, or a condition of another kind than the field's values (a number where
                they are texts, say) or of no known form.
        """
        allowed = np.ones(len(self), dtype=bool)
        for name, condition in conditions.items():
            allowed &= self._holds(name, condition)
        return allowed

    def kinds(self, field: str) -> set[str]:
        """What a field's values are: ``"text"``, ``"number"``, ``"boolean"``."""
        return {kind for kind, _ in self._field(field)}

    def _field(self, name: str) -> dict[tuple[str, Value], Any]:
        if name not in self._positions:
            known = ", ".join(map(repr, self.fields)) or "none: the index was built without metadata"
            raise InputError(f"no item has the field {name!r}; the fields are {known}")
        return self._positions[name]

    def _holds(self, name: str, condition: Any) -> BoolArray:
        values = self._field(name)
        if not isinstance(condition, Mapping):
            return self._any(values, self._keys(name, condition))
        unknown = [key for key in condition if key not in (*_BOUNDS, "not")]
        if unknown or not condition:
            raise InputError(
                f"the condition on {name!r} may have {', '.join(_BOUNDS)} and not, and got {unknown or 'nothing'}"
            )
        within = list(values)
        for bound in condition.keys() & _BOUNDS.keys():
            ((kind, limit),) = self._keys(name, condition[bound], one=True)
            within = [(k, value) for k, value in within if k == kind and _BOUNDS[bound](value, limit)]
        allowed = self._any(values, within) if condition.keys() & _BOUNDS.keys() else np.ones(len(self), dtype=bool)
        return allowed & ~self._any(values, self._keys(name, condition["not"])) if "not" in condition else allowed

    def _any(self, values: Mapping[tuple[str, Value], Any], keys: Iterable[tuple[str, Value]]) -> BoolArray:
        mask = np.zeros(len(self), dtype=bool)
        for key in keys:
            if key in values:
                mask[values[key]] = True
        return mask

    def _keys(self, name: str, condition: Any, *, one: bool = False) -> list[tuple[str, Value]]:
        """What a condition names, checked against the kinds of the field."""
        wanted = condition if isinstance(condition, list | tuple | set) and not one else [condition]
        keys, kinds = [(_kind(name, value), value) for value in wanted], self.kinds(name)
        for kind, value in keys:
            if kind not in kinds:
                raise InputError(f"{name!r} is a field of {' and '.join(sorted(kinds))}, not of {kind}; got {value!r}")
        return keys


def fields_by_id(given: Mapping[str, Mapping[str, Any]] | None) -> Mapping[str, Mapping[str, Any]]:
    """Metadata as a mapping; None is an empty one.

    Raises:
        InputError: it is something else.
    """
    if given is not None and not isinstance(given, Mapping):
        raise InputError(f"metadata must map item ids to fields, got {type(given).__name__}")
    return {} if given is None else given


def checked_metadata(given: Mapping[str, Mapping[str, Any]] | None, item_ids: Iterable[str]) -> Metadata:
    """Metadata by item id, brought into the items' order; an item without any is like one with no field.

    Raises:
        InputError: an id that no item has, what is no mapping, or a value that cannot be kept.
    """
    ids, given = list(item_ids), fields_by_id(given)
    for item_id in given.keys() - set(ids):
        raise InputError(f"there is metadata for the item {item_id!r}, and no such item")
    rows = [given.get(item_id, {}) for item_id in ids]
    for item_id, row in zip(ids, rows, strict=True):
        if not isinstance(row, Mapping) or not all(isinstance(name, str) and name for name in row):
            raise InputError(f"the metadata of item {item_id!r} must map names to values, got {row!r:.120}")
        for name, value in row.items():
            for text in (name, *(value if isinstance(value, list | tuple) else [value])):
                if isinstance(text, str):
                    check_unicode(f"the metadata of item {item_id!r}", text)
    return Metadata(rows)


def _plain(value: Any) -> Any:
    """Without numpy's kinds of numbers, which JSON does not know."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.tolist() if isinstance(value, np.generic | np.ndarray) else value


def _kind(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, str):
        return "text"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return "number"
    raise InputError(
        f"a value of {name!r} must be a text, a finite number or a boolean, or a list of these; got {value!r:.120}"
    )
