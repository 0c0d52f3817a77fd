"""A setting's value, from text or from what TOML has for it."""

from __future__ import annotations

import math
import typing
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from camcli.errors import UsageError, did_you_mean

_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}


@dataclass(frozen=True)
class Option:
    """How a setting looks on the command line, and which values it takes."""

    flags: tuple[str, ...]
    help: str
    panel: str
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    low: float | None = None
    high: float | None = None
    split: bool = True
    """Whether a comma separates the values of a repeatable setting."""


def setting(default: Any, flags: str, help: str, panel: str, **more: Any) -> Any:
    """A Config field; `flags` are its command-line names, separated by spaces."""
    option = Option(tuple(flags.split()), help, panel, **more)
    return field(default=default, metadata={"option": option})


def typed(kind: Any, option: Option, value: Any, shown: str, may_be_empty: bool = False) -> Any:
    """A value from a flag, a variable or TOML as the setting's own type; `shown` names it.

    Raises UsageError where it does not fit.
    """
    if isinstance(kind, UnionType):
        if value == "auto":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not type(None))
    if typing.get_origin(kind) is tuple:
        parts = value if isinstance(value, list | tuple) else [value]
        if option.split:
            parts = [part for whole in parts for part in _split(whole)]
        item = typing.get_args(kind)[0]
        parsed = tuple(_scalar(item, part, option, shown) for part in parts)
        if not parsed and not may_be_empty:
            raise UsageError(f"{shown} needs at least one value")
        return parsed
    return _scalar(kind, value, option, shown)


def _split(whole: Any) -> list[Any]:
    if not isinstance(whole, str):
        return [whole]
    return [part.strip() for part in whole.split(",") if part.strip()]


def _suits(kind: Any, value: Any) -> bool:
    """TOML has types of its own: 2.5 is no whole number; true, a list and a date are no text."""
    if isinstance(value, str):
        return value != ""
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int) or (isinstance(value, float) and kind is not int)


def _scalar(kind: Any, value: Any, option: Option, shown: str) -> Any:
    try:
        if not _suits(kind, value):
            raise TypeError
        result = _boolean(value) if kind is bool else kind(value)
        if kind is float and not math.isfinite(result):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        what = {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "text")
        raise UsageError(f"{shown} must be {what}, not '{value}'") from None
    if option.choices is not None and result not in option.choices:
        hint = did_you_mean(str(result), option.choices) or "."
        raise UsageError(
            f"{shown} must be one of {', '.join(option.choices)}, not '{result}'{hint}"
        )
    if option.low is not None and result < option.low:
        raise UsageError(f"{shown} must be at least {option.low:g}, not {result}")
    if option.high is not None and result > option.high:
        raise UsageError(f"{shown} must be at most {option.high:g}, not {result}")
    return result


def _boolean(value: Any) -> bool:
    word = str(value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(word)
    return word in _TRUE
