"""Pixels that were taken away, filled in from those around them."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

TOLERANCE = 1e-6
_MOST_ROUNDS = 2000
_BETWEEN_LOOKS = 8


def imputed(views: Tensor, gone: Tensor) -> Tensor:
    """Views (N, C, H, W) with the pixels of `gone`, (N, H, W), made the weighted mean of their
    neighbours, all at once (Rong 2022, arXiv 2202.00449, without its noise).

    w = 1/6 beside, above and below, 1/12 across the corners; beyond the border is nothing:
    sum_n w_n (x_n - x) = 0 at every pixel that is gone. Solved by conjugate gradients from the
    solution on half as many pixels, until no equation is off by more than 1e-6 of the largest
    value. A view with all pixels gone becomes 0.
    """
    scale = views.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(views.dtype).tiny)
    known = ~gone[:, None]
    solved = _solved(views.where(known, 0.0) / scale, known.to(views.dtype))
    return views.where(known, solved * scale)


def _solved(values: Tensor, known: Tensor) -> Tensor:
    """`values` where known is 1; elsewhere the solution."""
    if min(values.shape[-2:]) > 1:
        share = F.avg_pool2d(known, 2, ceil_mode=True)
        coarse = F.avg_pool2d(values * known, 2, ceil_mode=True) / share.clamp(min=1e-6)
        coarse = _solved(coarse, (share > 0).to(known.dtype))
        wide = F.interpolate(coarse, values.shape[-2:], mode="bilinear", align_corners=False)
        values = values.where(known > 0, wide)
    return _relaxed(values, 1 - known)


def _relaxed(image: Tensor, unknown: Tensor) -> Tensor:
    """Conjugate gradients on the unknown pixels, each picture and channel for itself."""
    # Within a ring of zeros and flattened, a neighbour is a shift, which is fast.
    width = image.shape[-1] + 2
    values, unknown = _ringed(image), _ringed(unknown)
    degree = _neighbours(_ringed(torch.ones_like(image[:1, :1])), width)
    residual = unknown * (_neighbours(values, width) - degree * values)
    direction, power = residual, _power(residual)
    for number in range(_MOST_ROUNDS):
        if number % _BETWEEN_LOOKS == 0:
            # Who is done waits for the others as he is, so that none depends on its neighbours.
            going = residual.abs().amax(dim=2, keepdim=True) > TOLERANCE
            if not bool(going.any()):
                break
        changed = unknown * (degree * direction - _neighbours(direction, width))
        curvature = (direction * changed).sum(dim=2, keepdim=True)
        step = (power / curvature).where(going & (curvature > 0), 0.0)
        values = values + step * direction
        residual = residual - step * changed
        before, power = power, _power(residual)
        direction = residual + (power / before).where(before > 0, 0.0) * direction
    return values.reshape(*image.shape[:2], -1, width)[..., 1:-1, 1:-1]


def _ringed(image: Tensor) -> Tensor:
    return F.pad(image, (1, 1, 1, 1)).flatten(2)


def _neighbours(values: Tensor, width: int) -> Tensor:
    """The weighted sum of the eight neighbours, (N, C, pixels), of all but those on the ring."""
    across = values[..., :-2] + values[..., 2:]
    across += 2 * values[..., 1:-1]
    both = across[..., : -2 * width] + across[..., 2 * width :]
    both += 2 * across[..., width:-width]
    inner = width + 1
    return F.pad((both - 4 * values[..., inner:-inner]) / 12, (inner, inner))


def _power(residual: Tensor) -> Tensor:
    return residual.square().sum(dim=2, keepdim=True)
