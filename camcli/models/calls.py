"""What module calls of one forward pass did, told from the tensors that went in and came out."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from camcli.cam.layers import ModuleCall

State = tuple[Any, int]
"""A tensor and its version, which tells whether it was modified in place; (None, 0) for others."""


def state_of(value: Any) -> State:
    """What a value is now."""
    return (value, value._version) if isinstance(value, Tensor) else (None, 0)


class CallTrace:
    """Collects module calls in the order in which they return."""

    def __init__(self) -> None:
        self.calls: list[ModuleCall] = []
        self._previous: State = (None, 0)
        self._counts: dict[str, int] = {}

    def left(self, name: str, type: str, parametric: bool, given: State, output: Any) -> None:
        """A module was given something, in the state in which it was, and returned `output`."""
        count = self._counts[name] = self._counts.get(name, -1) + 1
        now = state_of(output)
        if now[0] is not None:
            self.calls.append(
                ModuleCall(
                    name=name,
                    type=type,
                    call=count,
                    shape=tuple(now[0].shape),
                    same=_is(now, self._previous),
                    changed=not _is(now, given),
                    parametric=parametric,
                )
            )
        self._previous = now


def _is(one: State, other: State) -> bool:
    return one[0] is not None and one[0] is other[0] and one[1] == other[1]
