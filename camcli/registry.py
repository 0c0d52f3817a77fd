"""Names and cards of methods, model sources and metrics. No torch here: --help can list them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from camcli.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

Needs = Literal["gradient", "weights", "activation", "forwards", "attention", "input", "hessian"]
Units = Literal["score", "none"]
Scope = Literal["layer", "layers", "network"]
MethodFunction = Callable[[Any], "Tensor"]
Better = Literal["higher", "lower", "neither"]
Kind = Literal["faithfulness", "robustness", "complexity", "localisation"]
Asks = Literal["maps", "forwards", "explaining", "annotations", "mosaics"]
MetricFunction = Callable[[Any], Iterable[Any]]
Settle = Callable[[Any, Any, int], tuple[Any, "list[float | None]"]]

ALL_GRADIENT = "all-gradient"
_ALIASES = {"gradientxactivation": "hirescam", "gradxactivation": "hirescam"}


@dataclass(frozen=True)
class Method:
    """A CAM method: `function(capture)` returns what each channel adds to the map,
    (N, C, h, w), or the map itself, (N, h, w); raw and signed.

    `needs` is what it costs beyond one forward pass: `gradient` methods share one backward pass
    through the head, the others ask for more. `units` is "score" where the sum of a map is meant
    to be the class score, so that completeness can be measured. `scope` tells what a map is of:
    one `layer`, several `layers` fused into one map, or the whole `network`.
    """

    name: str
    title: str
    paper: str
    needs: Needs
    units: Units
    scope: Scope
    function: MethodFunction

    @property
    def doc(self) -> str:
        """The function's docstring: equation, source, cost, what is guaranteed, what is wrong."""
        return inspect.cleandoc(self.function.__doc__ or "")


@dataclass(frozen=True)
class Source:
    """A kind of model: `opens(name)` claims a name, `load(request)` returns a LoadedModel."""

    name: str
    opens: Callable[[str], bool]
    load: Callable[[Any], Any]


@dataclass(frozen=True)
class Metric:
    """A figure of a map: `function(subject)` returns one value for each of `subject.cams`, None
    where a map has none.

    A metric that is only known over all pictures returns an array for each map, and `settle(keys,
    arrays (pictures, rows, parts), seed)` turns them into values (pictures, rows) and what was
    settled on for each row, such as a threshold.
    `kind` is the question that it asks; only metrics of one kind can contradict each other. `needs`
    is what it takes beyond the maps: further `forwards`, `explaining` again, or `annotations`.
    `mosaics` are measured in place of pictures.
    `pictures` is how many it measures where nothing else is asked for; None is all of them.
    """

    name: str
    title: str
    paper: str
    better: Better
    kind: Kind
    needs: Asks
    pictures: int | None
    function: MetricFunction
    settle: Settle | None = None

    @property
    def doc(self) -> str:
        """The function's docstring: definition, source, cost, what it is known to get wrong."""
        return inspect.cleandoc(self.function.__doc__ or "")


METHODS: dict[str, Method] = {}
SOURCES: dict[str, Source] = {}
METRICS: dict[str, Metric] = {}


def method(
    *, title: str, paper: str, needs: Needs, units: Units = "none", scope: Scope = "layer"
) -> Callable[[MethodFunction], MethodFunction]:
    """Register the decorated function as a method under its own name."""

    def register(function: MethodFunction) -> MethodFunction:
        name = function.__name__
        METHODS[name] = Method(name, title, paper, needs, units, scope, function)
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


def metric(
    *,
    title: str,
    paper: str,
    better: Better,
    kind: Kind,
    needs: Asks = "maps",
    pictures: int | None = None,
    settle: Settle | None = None,
) -> Callable[[MetricFunction], MetricFunction]:
    """Register the decorated function as a metric under its own name."""

    def register(function: MetricFunction) -> MetricFunction:
        name = function.__name__
        METRICS[name] = Metric(name, title, paper, better, kind, needs, pictures, function, settle)
        return function

    return register


def find_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics of those names, each once, however they are spelled.

    Any other name is a UsageError with a suggestion.
    """
    known = {_plain(name): metric for name, metric in METRICS.items()}
    found: dict[str, Metric] = {}
    for name in names:
        if _plain(name) not in known:
            hint = did_you_mean(name, METRICS) or "."
            raise UsageError(f"no metric '{name}'{hint} List them: camcli evaluate --help")
        own = known[_plain(name)]
        found[own.name] = own
    return list(found.values())


def find_method(name: str) -> Method:
    """The method of that name, however it is spelled: `gradcampp`, `Grad-CAM++`, `grad_cam++`.

    Any other name is a UsageError with a suggestion.
    """
    plain = _plain(name)
    known = {_plain(m.title): m for m in METHODS.values()} | {
        _plain(m.name): m for m in METHODS.values()
    }
    known |= {alias: METHODS[own] for alias, own in _ALIASES.items() if own in METHODS}
    try:
        return known[plain]
    except KeyError:
        hint = did_you_mean(plain, [*METHODS, ALL_GRADIENT]) or "."
        raise UsageError(f"no method '{name}'{hint} List them: camcli methods") from None


def find_methods(names: Iterable[str]) -> list[Method]:
    """The methods of those names, each once; `all-gradient` is all that share one backward pass."""
    found: dict[str, Method] = {}
    for name in names:
        several = all_gradient() if _plain(name) == _plain(ALL_GRADIENT) else [find_method(name)]
        found |= {method.name: method for method in several}
    return list(found.values())


def all_gradient() -> list[Method]:
    """The methods whose maps come out of one forward pass and one gradient of the head."""
    return [m for m in METHODS.values() if m.needs == "gradient" and m.scope == "layer"]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold().replace("+", "p").replace("×", "x"))
