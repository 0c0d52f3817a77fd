"""Ordinary PyTorch modules, run with forward hooks that never outlive the run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from camcli.cam.layers import Layer, ModuleCall
from camcli.errors import ModelError
from camcli.models.attention import recorded_attention
from camcli.models.calls import CallTrace, State, state_of
from camcli.models.loaded import Edit, Edits
from camcli.models.output import logits_of
from camcli.models.tail import replayed, whole


class EagerNetwork:
    """A `Network` around an `nn.Module`, which stays as it was found."""

    def __init__(self, module: nn.Module, output: str | int | None = None) -> None:
        self.module = module
        self.output = output
        """Which of several answers holds the logits: a key, an attribute or a place."""

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """Evaluation mode, parameters frozen; modes and flags are put back afterwards."""
        modes = [(module, module.training) for module in self.module.modules()]
        flags = [(p, p.requires_grad) for p in self.module.parameters()]
        try:
            self.module.eval().requires_grad_(False)
            yield
        finally:
            for module, training in modes:
                module.training = training
            for parameter, requires_grad in flags:
                parameter.requires_grad_(requires_grad)

    def run(self, x: Tensor, edits: Edits) -> Tensor:
        """Logits of one forward pass with the given layers' outputs replaced."""
        with ExitStack() as hooks:
            for layer, edit in edits.items():
                module = self.module.get_submodule(layer.module)
                hooks.enter_context(module.register_forward_hook(_on_call(layer, edit)))
            return logits_of(self.module(x), self.output, len(x))

    @contextmanager
    def tail(self, x: Tensor, layer: Layer) -> Iterator[Edit]:
        """What follows a layer, for one picture; the whole network where that cannot be cut out."""
        kept: dict[Layer, Tensor] = {}

        def keep(output: Tensor) -> Tensor:
            kept[layer] = output.clone()
            return output

        with torch.no_grad():
            expected = self.run(x, {layer: keep})
        again = replayed(self.module, x, layer)

        def short(output: Tensor) -> Tensor:
            return logits_of(again(output), self.output, len(output))

        try:
            with torch.no_grad():
                found = short(torch.cat([kept[layer]] * 2))
            same = torch.allclose(found, expected.expand_as(found), rtol=1e-3, atol=1e-5)
        except RuntimeError:  # in place, or in a shape of its own, on what is given again
            same = False
        yield short if same else whole(self.run, x, layer)

    def classifier(self) -> Tensor | None:
        """The weights of the linear layer that comes last among the modules."""
        linear = [m for m in self.module.modules() if isinstance(m, nn.Linear)]
        return linear[-1].weight.detach() if linear else None

    def biases(self) -> dict[str, Tensor]:
        """Biases of modules, and what batch normalisation adds: beta - mu gamma / sigma."""
        found = {}
        for name, module in self.module.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                bias = _shift(module)
            else:
                bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor) and bias.dim() == 1:
                found[name] = bias.detach()
        return found

    @contextmanager
    def attention(self) -> Iterator[list[tuple[str, Tensor]]]:
        """Attention weights as they arise, each with the name of its transformer block."""
        with recorded_attention(self.module) as record:
            yield record

    def calls(self, x: Tensor) -> list[ModuleCall]:
        """Every module call that returned a tensor, from one forward pass without gradients."""
        own = _Hooks()
        with ExitStack() as hooks, torch.no_grad():
            for name, module in self.module.named_modules():
                if name:
                    hooks.enter_context(module.register_forward_pre_hook(own.enter))
                    hooks.enter_context(module.register_forward_hook(own.leave(name)))
            self.module(x)
        return own.trace.calls


class _Hooks:
    """Hooks that trace the calls of modules."""

    def __init__(self) -> None:
        self.trace = CallTrace()
        self._given: list[State] = []

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._given.append(state_of(args[0] if args else None))

    def leave(self, name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            parametric = next(module.parameters(recurse=False), None) is not None
            self.trace.left(name, type(module).__name__, parametric, self._given.pop(), output)

        return hook


def _shift(norm: nn.modules.batchnorm._BatchNorm) -> Tensor | None:
    """What a batch norm of kept statistics adds; without an affine part, gamma is 1 and beta 0."""
    if norm.running_mean is None or norm.running_var is None:
        return norm.bias
    centre = -norm.running_mean * (norm.running_var + norm.eps).rsqrt()
    return centre * norm.weight + norm.bias if norm.affine else centre


def _on_call(layer: Layer, edit: Edit) -> Any:
    """A hook that edits the output of the layer's own call and lets its other calls pass."""
    calls = 0

    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls - 1 != layer.call:
            return None
        if not isinstance(output, Tensor):
            raise ModelError(f"the layer '{layer.name}' returns {type(output).__name__}, no tensor")
        return edit(output)

    return hook
