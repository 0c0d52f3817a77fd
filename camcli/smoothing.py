"""`--smooth`: maps averaged over changed inputs, or reduced to their strongest pattern."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import Tensor

from camcli.cam.capture import LayerCapture
from camcli.cam.spectral import first_component
from camcli.errors import UsageError
from camcli.records import Smoothing
from camcli.registry import Method

_SCALES = (0.9, 1.1)

Undo = Callable[[Tensor], Tensor]


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
    for method in methods if smoothing else ():
        if method.needs != "gradient":
            raise UsageError(
                f"--smooth {','.join(smoothing)} is for methods of one gradient, which "
                f"{method.name} is not; leave it away, or see camcli methods"
            )


def cam_of(
    method: Method, capture: LayerCapture | Sequence[LayerCapture], smoothing: Sequence[Smoothing]
) -> Tensor:
    """The raw signed map (N, h, w) of a method; with `eigen`, the first singular component of
    what the channels add to it, in place of their sum.
    """
    found = method.function(capture)
    if "eigen" in smoothing:
        if found.dim() != 4:
            raise UsageError(
                f"--smooth eigen is for methods that sum over channels, which {method.name} does "
                "not; leave it away"
            )
        return first_component(found)
    return found.sum(dim=1) if found.dim() == 4 else found
