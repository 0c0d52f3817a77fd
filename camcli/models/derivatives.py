"""Operators without a derivative, as graphs that were saved without gradients hold them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from camcli.errors import DerivativeError


def refuse_underived(logits: Tensor, name: str) -> None:
    """A DerivativeError that names an operator without a derivative between layer and logits."""
    operator = _underived(logits)
    if operator:
        raise DerivativeError(
            f"{operator} in {name} has no derivative; export it again with gradients "
            "enabled, or explain a layer behind it (camcli layers lists them)"
        )


def _underived(logits: Tensor) -> str:
    """The name of an operator in the recorded graph that cannot be differentiated, or nothing."""
    seen: set[Any] = set()
    found: list[Any] = [logits.grad_fn]
    while found:
        node = found.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().endswith("NotImplemented"):
            try:
                node(logits.detach())
            except RuntimeError as error:  # "derivative for aten::... is not implemented"
                return next((word for word in str(error).split() if "::" in word), "an operator")
        found += [following for following, _ in node.next_functions]
    return ""
