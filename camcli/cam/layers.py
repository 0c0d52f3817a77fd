"""Which layer to explain: the last feature map that still has places, after its activation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from camcli.cam.grid import Grid, infer_grid
from camcli.errors import UsageError, did_you_mean

# Modules that move, thin out or average a map but do not make one.
_NOT_A_SOURCE = re.compile(r"pool|dropout|droppath|stochasticdepth|flatten|identity", re.IGNORECASE)


@dataclass(frozen=True)
class ModuleCall:
    """One call of one module during a forward pass, in the order in which calls returned.

    `same` says that the output is the very tensor that the previous call returned, unmodified:
    a container handing on its last child's output. `changed` says that the output differs from
    the module's input.
    """

    name: str
    type: str
    call: int
    shape: tuple[int, ...]
    same: bool
    changed: bool
    parametric: bool
    """Whether the module has parameters of its own, not only in its children."""


@dataclass(frozen=True)
class Layer:
    """A feature map that can be explained, under the outermost module that hands it out."""

    name: str
    type: str
    module: str
    call: int
    grid: Grid
    names: tuple[str, ...]
    """All the names of this map: `layer4`, `layer4.2`, `layer4.2.relu:2`."""


def feature_maps(calls: Sequence[ModuleCall], view: tuple[int, int], classes: int) -> list[Layer]:
    """The layers of a forward pass that hold a feature map, in order.

    A layer called several times is `name:k` for its k-th call (from 0) and, for the last, `name`.
    """
    last_call = {call.name: call.call for call in calls}
    last_weights = max((i for i, call in enumerate(calls) if call.parametric), default=-1)
    layers: list[Layer] = []
    open_map = False  # whether a container may still hand on the map at the end of `layers`
    for position, call in enumerate(calls):
        name = call.name if call.call == last_call[call.name] else f"{call.name}:{call.call}"
        if call.same:
            if open_map and call.changed:
                inner = layers.pop()
                names = (name, *inner.names)
                layers.append(Layer(name, inner.type, call.name, call.call, inner.grid, names))
            continue
        grid = infer_grid(call.shape, view)
        open_map = False
        if grid is None or not call.changed or _NOT_A_SOURCE.search(call.type):
            continue
        if grid.channels == classes and position >= last_weights:
            continue  # one map per class, only to be averaged: SqueezeNet's last convolution
        layers.append(Layer(name, call.type, call.name, call.call, grid, (name,)))
        open_map = True
    return layers


def find_layer(
    layers: Iterable[Layer], name: str, model: str, opened_by: str | None = None
) -> Layer:
    """The layer of that name, whichever of its names it is; UsageError with a suggestion.

    `opened_by` is what the command line opens the model by, where that is not its name.
    """
    known = {alias: layer for layer in layers for alias in layer.names}
    if name not in known:
        hint = did_you_mean(name, known) or "."
        raise UsageError(
            f"no layer '{name}' in {model}{hint} List them: camcli layers {opened_by or model}"
        )
    return known[name]
