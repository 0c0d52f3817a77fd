"""Settings as Typer options, so that a setting is declared once, in `camcli.config`."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from camcli import config
from camcli.values import Option

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(config.Config)}


def with_settings(
    names: Iterable[str], defaults: Mapping[str, Any] | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these settings, in place of its `**flags`.

    An option that is not given is None: the defaults belong to `config.resolve`. `defaults` are
    those in which the command differs from explain.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True)
        parameters = [
            p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        shown = _DEFAULTS | dict(defaults or {})
        parameters += [_parameter(name, shown[name]) for name in names]
        command.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {p.name: p.annotation for p in parameters} | {"return": None}
        return command

    return decorate


@cache
def _parameter(name: str, default: Any) -> inspect.Parameter:
    option, kind = config.options()[name], config.kinds()[name]
    repeatable = get_origin(kind) is tuple or any(get_origin(k) is tuple for k in get_args(kind))
    plain: Any = list[str] if repeatable else bool if kind is bool else str
    info = typer.Option(
        *option.flags,
        help=f"{option.help}{_default(default)}",
        rich_help_panel=option.panel,
        metavar=None if kind is bool else _metavar(name, option, kind),
        show_default=False,
        autocompletion=_completion(name, option),
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[plain | None, info]
    )


def _metavar(name: str, option: Option, kind: Any) -> str:
    if option.metavar:
        return option.metavar
    if option.choices:
        return "|".join(option.choices)
    numbers = {int: "N", float: "X", Path: "DIR"}
    for candidate in (kind, *get_args(kind)):
        if candidate in numbers:
            return numbers[candidate]
    return name.upper()


def _default(default: Any) -> str:
    if default is None or isinstance(default, bool) or default == ():
        return ""
    text = ",".join(default) if isinstance(default, tuple) else str(default)
    return f" (default: {text})"


def _completion(name: str, option: Option) -> Callable[[str], list[str]] | None:
    """Shell completion of choices and method names, without loading torch."""

    def complete(incomplete: str) -> list[str]:
        known: Iterable[str] = option.choices or ()
        if name == "method":
            from camcli.cam import methods
            from camcli.registry import ALL_GRADIENT, METHODS

            known = [*METHODS, ALL_GRADIENT] if methods else ()
        return [choice for choice in known if choice.startswith(incomplete)]

    return complete if option.choices or name == "method" else None
