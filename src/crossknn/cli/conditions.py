"""Conditions on items' metadata, as written on the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from crossknn.errors import InputError
from crossknn.metadata import Metadata

_FORM = re.compile(r"(?P<field>[^=!<>]+)(?P<sign>!=|>=|<=|=|>|<)(?P<value>.*)", re.DOTALL)
_NAMES = {"=": "in", "!=": "not", ">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}

Filter = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="CONDITION",
        help="Only items whose metadata fit, as 'chapter=Injuries', 'chapter!=Injuries', 'year>=2000'. All conditions "
        "must hold, but of several with = on one field one is enough.",
    ),
]


def parsed(conditions: Sequence[str], metadata: Metadata) -> dict[str, Any]:
    """Conditions in the forms of :mod:`crossknn.metadata`; a value is read as what its field holds.

    Raises:
        InputError: a condition of no known form, a field that no item has, or a value that is no number where the field
            holds numbers.
    """
    found: dict[str, dict[str, Any]] = {}
    for text in conditions:
        match = _FORM.fullmatch(text)
        if match is None:
            raise InputError(f"cannot read the condition {text!r}; write 'field=value', or with !=, >, >=, < or <=")
        field, name = match["field"].strip(), _NAMES[match["sign"]]
        value, of_field = _value(field, match["value"].strip(), metadata.kinds(field)), found.setdefault(field, {})
        if name in ("in", "not"):
            of_field.setdefault(name, []).append(value)
        elif name in of_field:
            raise InputError(f"{field!r} has two conditions with {match['sign']!r}; one is enough")
        else:
            of_field[name] = value
    for field, of_field in found.items():
        if "in" in of_field and len(of_field) > 1:
            raise InputError(f"{field!r} has a condition with '=' and others; leave one of them out")
    return {field: of_field.get("in", of_field) for field, of_field in found.items()}


def _value(field: str, text: str, kinds: set[str]) -> str | int | float | bool:
    if "boolean" in kinds and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number in (int, float) if "number" in kinds else ():
        try:
            return number(text)
        except ValueError:
            continue
    if "text" not in kinds:
        raise InputError(f"{field!r} is a field of {' and '.join(sorted(kinds))}, and {text!r} is none")
    return text
