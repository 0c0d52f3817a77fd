"""`--smooth`: maps averaged over changed inputs, or reduced to their strongest pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import get_args

from torch import Tensor

from camcli.cam.capture import LayerCapture
from camcli.cam.spectral import first_component
from camcli.errors import UsageError, did_you_mean
from camcli.records import Smoothing
from camcli.registry import Method

_SCALES = (0.9, 1.1)

Undo = Callable[[Tensor], Tensor]


def wanted(names: Sequence[str]) -> tuple[Smoothing, ...]:
    """Each kind once, in one order; UsageError for a name that is none."""
    known = get_args(Smoothing)
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known) or "."
            raise UsageError(f"smooth must be one of {', '.join(known)}, not '{name}'{hint}")
    return tuple(kind for kind in known if kind in names)


def variants(view: Tensor, smoothing: Sequence[Smoothing]) -> Iterator[tuple[Tensor, Undo]]:
    """Changed views (N, 3, H, W), without the view itself, each with how its maps are turned back.

    `flip` mirrors left and right; `scale` multiplies the normalised values by 0.9 and 1.1; both
    together are every combination.
    """

    def same(cam: Tensor) -> Tensor:
        return cam

    def mirrored(cam: Tensor) -> Tensor:
        return cam.flip(-1)

    scales = _SCALES if "scale" in smoothing else ()
    for factor in scales:
        yield view * factor, same
    if "flip" in smoothing:
        for factor in (1.0, *scales):
            yield (view * factor).flip(-1), mirrored


def check(methods: Sequence[Method], smoothing: Sequence[Smoothing]) -> None:
    """Raises UsageError for a method that cannot be smoothed."""
    given = ",".join(smoothing)
    for method in methods if smoothing else ():
        if method.needs != "gradient":
            raise UsageError(
                f"--smooth {given} is for methods of one gradient, which {method.name} is not; "
                "leave it away, or see camcli methods"
            )
        if "eigen" in smoothing and method.scope == "layers":
            raise UsageError(
                f"--smooth eigen is for what the channels of one layer add up to; {method.name} "
                "fuses the maps of several; leave it away"
            )


def cam_of(
    method: Method, capture: LayerCapture | Sequence[LayerCapture], smoothing: Sequence[Smoothing]
) -> Tensor:
    """The raw signed map (N, h, w) of a method; with `eigen`, the first singular component of
    what the channels add to it, in place of their sum. A method that has a single map to begin
    with, EigenGrad-CAM, keeps it: that of one channel is the channel.
    """
    found = method.function(capture)
    if found.dim() != 4:
        return found
    return first_component(found) if "eigen" in smoothing else found.sum(dim=1)
