"""The trunk in bfloat16 or float16; the layer, and all that is computed from it, in float32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from camcli.records import Precision

if TYPE_CHECKING:
    from camcli.models.loaded import Edit, Edits

LOW = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextmanager
def lowered(precision: Precision, device: torch.device, edits: Edits) -> Iterator[Edits]:
    """Edits for one forward pass, whose operators work in `precision` up to the first of them.

    From there on torch's autocast is off, and what is edited is float32. Without edits the whole
    pass is in the lower precision.
    """
    if precision == "fp32":
        yield edits
        return
    with torch.autocast(device.type, LOW[precision]), ExitStack() as behind:

        def raising(edit: Edit) -> Edit:
            def edited(output: Tensor) -> Tensor:
                if torch.is_autocast_enabled(device.type):
                    torch.set_autocast_enabled(device.type, False)
                    behind.enter_context(_Raised())
                return edit(output.float())

            return edited

        yield {layer: raising(edit) for layer, edit in edits.items()}


def emulated(precision: Precision, device: torch.device) -> bool:
    """Whether a CPU has no instructions for a precision, which is slower then than float32."""
    if device.type != "cpu" or precision == "fp32":
        return False
    supported = getattr(torch.ops.mkldnn, f"_is_mkldnn_{precision}_supported", None)
    return supported is not None and not supported()


class _Raised(TorchFunctionMode):
    """Casts up what a connection around the layer brings along in a lower precision."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return function(*tree_map_only(Tensor, raised, args),
                        **tree_map_only(Tensor, raised, kwargs or {}))  # fmt: skip


def raised(tensor: Tensor) -> Tensor:
    """In float32 where it is of a lower precision."""
    return tensor.float() if tensor.dtype in LOW.values() else tensor
