"""Other rules for the gradient at ReLUs: guided backpropagation and deconvnet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor
from torch.overrides import TorchFunctionMode

from camcli.cam.capture import Rule

# Exported programs call the operators themselves.
_aten = torch.ops.aten
_RELU = (F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_,
         _aten.relu.default, _aten.relu_.default)  # fmt: skip
_CLAMPS = (F.hardtanh, F.hardtanh_, _aten.hardtanh.default, _aten.hardtanh_.default)


class _Guided(torch.autograd.Function):
    """R_in = R_out [z is passed on] [R_out > 0] (Springenberg 2015, arXiv 1412.6806)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, top: float) -> Tensor:
        ctx.save_for_backward((z > 0) & (z < top))
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (passed,) = ctx.saved_tensors
        return gradient.relu() * passed, None


class _Deconvnet(torch.autograd.Function):
    """R_in = R_out [R_out > 0] (Zeiler & Fergus 2014, arXiv 1311.2901)."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, top: float) -> Tensor:
        return z.clamp(0, top)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.relu(), None


class Rectified(TorchFunctionMode):
    """While this is active, every ReLU and ReLU6 is differentiated by a rule of its own.

    Functions are replaced as they are called, modules and functional calls alike, so that the
    model is not touched. `count` is how many were. The rule "plain" replaces none.
    """

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.count = 0
        self._rule = {"plain": None, "guided": _Guided, "deconvnet": _Deconvnet}[rule]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        replaced = self._rule is not None and (func in _RELU or func in _CLAMPS or func is F.relu6)
        top = _top(func, *args, **kwargs) if replaced else None
        if top is None:
            return func(*args, **kwargs)
        self.count += 1
        return self._rule.apply(args[0] if args else kwargs["input"], top)  # type: ignore[union-attr]


def _top(
    func: Callable[..., Any],
    input: Any = None,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> float | None:
    """Where a ReLU ends: at infinity, ReLU6 at 6; None for any other function."""
    if func in _RELU:
        return float("inf")
    if func is F.relu6:
        return 6.0
    return max_val if func in _CLAMPS and min_val == 0 else None
