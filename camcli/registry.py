"""Names and cards of methods and model sources. No torch here, so that --help can list them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from camcli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["gradient", "weights", "activation", "forwards", "attention", "input", "hessian"]
Units = Literal["score", "none"]
MethodFunction = Callable[[Any], "Tensor"]


@dataclass(frozen=True)
class Method:
    """A CAM method: `function(layer_capture) -> (N, h, w)`, raw and signed.

    `needs` is what the engine has to provide beyond one forward pass. `units` is "score" where
    the sum of a map is meant to be the class score, so that completeness can be measured.
    """

    name: str
    title: str
    paper: str
    needs: Needs
    units: Units
    function: MethodFunction

    @property
    def doc(self) -> str:
        """The function's docstring: equation, source, shapes, and what surprises."""
        return inspect.cleandoc(self.function.__doc__ or "")


@dataclass(frozen=True)
class Source:
    """A kind of model: `opens(name)` claims a name, `load(request)` returns a LoadedModel."""

    name: str
    opens: Callable[[str], bool]
    load: Callable[[Any], Any]


METHODS: dict[str, Method] = {}
SOURCES: dict[str, Source] = {}


def method(
    *, title: str, paper: str, needs: Needs, units: Units
) -> Callable[[MethodFunction], MethodFunction]:
    """Register the decorated function as a method under its own name."""

    def register(function: MethodFunction) -> MethodFunction:
        name = function.__name__
        METHODS[name] = Method(name, title, paper, needs, units, function)
        return function

    return register


def source(
    *, name: str, opens: Callable[[str], bool]
) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Register the decorated loader as a model source; sources are asked in order of import."""

    def register(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
        SOURCES[name] = Source(name, opens, load)
        return load

    return register


def find_method(name: str) -> Method:
    """The method of that name; any other name is an error with a suggestion."""
    try:
        return METHODS[name]
    except KeyError:
        hint = did_you_mean(name, METHODS) or "."
        raise UsageError(f"no method '{name}'{hint} List them: camcli methods") from None
