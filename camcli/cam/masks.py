"""Feature maps as masks over the network's view."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor


def enlarged(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (N, C, H, W), bilinear, half-pixel centres."""
    wide = F.interpolate(maps, size, mode="bilinear", align_corners=False)
    # Rounding must not leave the range: `unit` would stretch it into a picture of a constant map.
    return wide.clamp(maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True))


def unit(maps: Tensor, dims: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Stretched from 0 to 1 over `dims`; what is the same everywhere becomes 0."""
    low, high = maps.amin(dims, keepdim=True), maps.amax(dims, keepdim=True)
    extent = high - low  # NaN of what is infinite, which is not to look empty
    return ((maps - low) / extent).where(extent != 0, 0.0)


def peaked(maps: Tensor) -> Tensor:
    """Rectified and divided by their maximum, (N, h, w); an empty map stays empty."""
    shown = maps.relu()
    high = shown.amax((-2, -1), keepdim=True)
    return (shown / high).where(high != 0, 0.0)


def blurred(view: Tensor, reach: int, sigma: float) -> Tensor:
    """(N, 3, H, W), smoothed by a Gaussian of 2 reach + 1 pixels; edges are mirrored."""
    height, width = view.shape[-2:]
    for axis, extent in ((3, width), (2, height)):
        span = min(reach, extent - 1)
        places = torch.arange(-span, span + 1, device=view.device, dtype=view.dtype)
        kernel = (-places.square() / (2 * sigma**2)).exp()
        shape = [1, 1, 1, 1]
        shape[axis] = len(kernel)
        kernel = (kernel / kernel.sum()).reshape(shape).expand(view.shape[1], -1, -1, -1)
        pad = (span, span, 0, 0) if axis == 3 else (0, 0, span, span)
        view = F.conv2d(F.pad(view, pad, mode="reflect"), kernel, groups=view.shape[1])
    return view
