"""A record against its JSON schema, for the keywords that the schema uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from camcli.outputs import schema

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
}


def mismatch(record: Any) -> str | None:
    """The first place where a record is not as the schema says; None where it is valid."""
    return next(_mismatches(record, _schema(), "the record"), None)


@cache
def _schema() -> dict[str, Any]:
    return schema()


def _is(value: Any, name: str) -> bool:
    if isinstance(value, bool):
        return name == "boolean"
    return isinstance(value, _TYPES[name])


def _mismatches(value: Any, rule: Any, where: str) -> Iterator[str]:
    if rule is True:
        return
    if "$ref" in rule:
        yield from _mismatches(value, _schema()["$defs"][rule["$ref"].rpartition("/")[2]], where)
    if "oneOf" in rule and sum(not [*_mismatches(value, r, where)] for r in rule["oneOf"]) != 1:
        yield f"{where} is none of what it may be"
    if "if" in rule:
        fits = not [*_mismatches(value, rule["if"], where)]
        yield from _mismatches(value, rule["then" if fits else "else"], where)
    yield from _of_value(value, rule, where)


def _of_value(value: Any, rule: dict[str, Any], where: str) -> Iterator[str]:
    names = rule.get("type", [])
    names = [names] if isinstance(names, str) else names
    if names and not any(_is(value, name) for name in names):
        yield f"{where} is not {' or '.join(names)}"
    elif "const" in rule and (value != rule["const"] or isinstance(value, bool)):
        yield f"{where} is not {rule['const']}"
    elif "enum" in rule and value not in rule["enum"]:
        yield f"{where} is not one of {', '.join(rule['enum'])}"
    elif isinstance(value, dict):
        yield from _of_object(value, rule, where)
    elif isinstance(value, list):
        yield from _of_array(value, rule, where)
    elif isinstance(value, str):
        yield from _of_text(value, rule, where)
    elif _is(value, "number") and not (
        rule.get("minimum", value) <= value <= rule.get("maximum", value)
    ):
        yield f"{where} is {value}"


def _of_text(value: str, rule: dict[str, Any], where: str) -> Iterator[str]:
    if len(value) < rule.get("minLength", 0):
        yield f"{where} is too short"
    if "pattern" in rule and not re.search(rule["pattern"], value):
        yield f"{where} is not as it is written"


def _of_object(value: dict[str, Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    known = rule.get("properties", {})
    for name in rule.get("required", ()):
        if name not in value:
            yield f"{where} has no {name}"
    for name, item in value.items():
        if name in known:
            yield from _mismatches(item, known[name], name)
        elif rule.get("additionalProperties", True) is False:
            yield f"{where} has an unknown '{name}'"


def _of_array(value: list[Any], rule: dict[str, Any], where: str) -> Iterator[str]:
    if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
        yield f"{where} has {len(value)} items"
    for item in value:
        yield from _mismatches(item, rule.get("items", True), where)
