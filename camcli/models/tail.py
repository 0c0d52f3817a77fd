"""Running what follows a layer, without running what comes before it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camcli.cam.layers import Layer


def replayed(module: nn.Module, x: Tensor, layer: Layer) -> Callable[[Tensor], Any]:
    """A function from a layer's outputs (M, ...) to what the module returns for them.

    One pass over one picture, x (1, 3, H, W), keeps what the outermost modules that return before
    the layer does have returned. Later calls of the function give these again, to as many rows as
    are asked for: what passes the layer by, as a residual connection does, is right too.
    """
    with torch.no_grad():
        record = _recorded(module, x, layer)

    def run(output: Tensor) -> Any:
        with ExitStack() as undo:
            for part, returned in record.items():
                undo.enter_context(_replaced(part, returned, output))
            return module(x.expand(len(output), *x.shape[1:]))

    return run


def whole(
    run: Callable[[Tensor, dict[Layer, Callable[[Tensor], Tensor]]], Tensor],
    x: Tensor,
    layer: Layer,
) -> Callable[[Tensor], Tensor]:
    """The same by way of a network's `run`, at the cost of the whole network."""
    return lambda output: run(
        x.expand(len(output), *x.shape[1:]), {layer: lambda _: output.clone()}
    )


_THE_LAYER = object()


def _recorded(module: nn.Module, x: Tensor, layer: Layer) -> dict[nn.Module, list[Any]]:
    """What each of the outermost modules returned, call by call, up to the layer's own call."""
    # Modules that are running, each with those that returned inside it.
    running: list[list[tuple[nn.Module, Any]]] = [[]]
    target = module.get_submodule(layer.module)
    calls = 0
    record: dict[nn.Module, list[Any]] = {}

    def enter(part: nn.Module, args: tuple[Any, ...]) -> None:
        running.append([])

    def leave(part: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal calls
        inner = running.pop()
        calls += part is target
        if part is target and calls - 1 == layer.call:
            running[-1].append((part, _THE_LAYER))
            for returned in [pair for level in running for pair in level]:
                record.setdefault(returned[0], []).append(returned[1])
        elif isinstance(output, Tensor) and output.shape[:1] == (1,):
            running[-1].append((part, output))
        else:  # cannot be given again: its parts can
            running[-1].extend(inner)

    with ExitStack() as hooks:
        for part in module.modules():
            if part is not module:
                hooks.enter_context(part.register_forward_pre_hook(enter))
                hooks.enter_context(part.register_forward_hook(leave))
        module(x)
    return record


@contextmanager
def _replaced(part: nn.Module, returned: list[Any], output: Tensor) -> Iterator[None]:
    """The module gives what it returned before; calls beyond those run as usual."""
    before = part.__dict__.get("forward")
    usual, left = part.forward, list(returned)

    def forward(*args: Any, **kwargs: Any) -> Any:
        if not left:
            return usual(*args, **kwargs)
        value = left.pop(0)
        if value is _THE_LAYER:
            return output.clone()  # an operation that follows may work in place
        return value.expand(len(output), *value.shape[1:])

    part.__dict__["forward"] = forward
    try:
        yield
    finally:
        del part.__dict__["forward"]
        if before is not None:
            part.__dict__["forward"] = before
