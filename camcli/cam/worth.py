"""What a map is worth: how much of the score it accounts for, and whether that can be asked.

Sums are in units of the score (a logit). By the fundamental theorem along the line from A = 0 to
A, a map G * A accounts for the score exactly where the head is linear or positively homogeneous
in A; Draelos & Carin (arXiv 2011.08891) prove it for one linear layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from camcli.records import Score

if TYPE_CHECKING:
    from camcli.cam.capture import LayerCapture

COMPLETE = 1e-3
"""A completeness or location error up to here counts as none."""

# Differences below this share of the change that the layer makes are rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Probe:
    """What one layer's head does, from three evaluations on fixed synthetic pictures."""

    score: Score
    baseline: Tensor | None
    """The logits at A = 0, (classes,); None where they depend on the picture."""
    pooled: bool
    """True where the gradient is the same everywhere: global average pooling follows."""


def classify(zero: Tensor, once: Tensor, twice: Tensor, uniform_gradient: bool) -> Probe:
    """The class of a head from its logits at A := 0, A and 2A, each (N, classes), N >= 2."""
    baseline = zero.mean(dim=0)
    change = float((once - zero).abs().max())
    rounding = _rounding(zero, once)
    if bypassed(zero, once):
        return Probe("bypassed", None, uniform_gradient)
    if float((twice - once).abs().max()) <= 10 * rounding < change:
        return Probe("scale_invariant", baseline, uniform_gradient)
    doubled = (twice - zero) - 2 * (once - zero)
    exact = float(doubled.abs().max()) <= rounding < math.inf  # logits may overflow
    return Probe("exact" if exact else "first_order", baseline, uniform_gradient)


def bypassed(zero: Tensor, once: Tensor) -> bool:
    """Whether the logits at A := 0 still depend on the picture: something passes the layer by."""
    return float((zero - zero.mean(dim=0)).abs().max()) > _rounding(zero, once)


def _rounding(zero: Tensor, once: Tensor) -> float:
    return _ROUNDING * max(float((once - zero).abs().max()), 1e-3 * float(once.abs().max()))


@dataclass(frozen=True)
class Worth:
    """What is measured of the maps of a batch, (N,) each; None where it has no meaning."""

    outside: Tensor | None = None
    baseline: Tensor | None = None
    completeness: Tensor | None = None
    location: Tensor | None = None


def measured(
    cam: Tensor, capture: LayerCapture, probe: Probe, baseline: Tensor | None, hirescam: Tensor
) -> Worth:
    """The worth of maps in units of the score, with the targets' scores at A = 0, (N,)."""
    if baseline is None:
        return Worth(capture.outside)
    completeness = location = None
    if probe.score in ("exact", "first_order"):
        mass = capture.product.abs().sum(dim=(1, 2, 3))
        score = capture.further.score
        completeness = completeness_error(score, baseline, cam.sum(dim=(1, 2)), mass)
    if probe.score == "exact":
        location = location_error(cam, hirescam)
    return Worth(capture.outside, baseline, completeness, location)


def completeness_error(score: Tensor, baseline: Tensor, total: Tensor, mass: Tensor) -> Tensor:
    """|(score - baseline) - sum of map| / max(|score - baseline|, 1e-3 * sum |A * G|), (N,)."""
    change = score - baseline
    scale = change.abs().maximum(1e-3 * mass).clamp(min=1e-30)
    error: Tensor = (change - total).abs() / scale
    return error


def location_error(cam: Tensor, reference: Tensor) -> Tensor:
    """L2 distance between two maps of unit norm, (N, h, w), (N, h, w) -> (N,), from 0 to 2.

    Against a complete HiResCAM map this is the paper's measure of showing places that the
    network did not use (arXiv 2011.08891). A map that is zero everywhere has no direction; its
    distance to another such map is 0, to any other 1.
    """
    distance: Tensor = torch.linalg.vector_norm(_unit(cam) - _unit(reference), dim=(1, 2))
    return distance


def _unit(cam: Tensor) -> Tensor:
    norm = torch.linalg.vector_norm(cam, dim=(1, 2), keepdim=True)
    unit: Tensor = cam / norm.clamp(min=1e-30)
    return unit
