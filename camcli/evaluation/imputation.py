"""Pixels that were taken away, filled in from those around them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

TOLERANCE = 3e-5
_MOST_ROUNDS = 200
_COARSEST = 8
_SWEEPS = 4


class _Level(NamedTuple):
    """The equations on one grid, diagonal * x - weighted sum of the neighbourhood."""

    unknown: Tensor
    """1 where a value is sought, (N, 1, h, w)."""
    diagonal: Tensor
    step: Tensor
    """What a sweep adds for each unit of the residual."""


def imputed(views: Tensor, gone: Tensor) -> Tensor:
    """Views (N, C, H, W) with the pixels of `gone`, (N, H, W), made the weighted mean of their
    neighbours, all at once (Rong 2022, arXiv 2202.00449, without its noise).

    w = 1/6 beside, above and below, 1/12 across the corners; beyond the border is nothing:
    sum_n w_n (x_n - x) = 0 at every pixel that is gone. Conjugate gradients, each round led by a
    multigrid cycle, until no value changes by more than 3e-5 of the largest. A view with all
    pixels gone becomes 0.
    """
    scale = views.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(views.dtype).tiny)
    known = ~gone[:, None]
    values = views.where(known, 0.0) / scale
    return views.where(known, _solved(values, gone[:, None].to(views.dtype)) * scale)


def _solved(values: Tensor, unknown: Tensor) -> Tensor:
    """`values`, 0 where they are unknown, there with the solution."""
    height, width = values.shape[-2:]
    levels = _levels(unknown)
    rows, columns = levels[0].unknown.shape[-2:]
    values = F.pad(values, (0, columns - width, 0, rows - height))
    residual = -_applied(levels[0], values)
    direction = torch.zeros_like(values)
    power = values.new_zeros(())
    going = torch.ones_like(values[:, :1, :1, :1], dtype=torch.bool)
    for _ in range(_MOST_ROUNDS):
        led = _cycle(residual, levels)
        before, power = power, _product(residual, led)
        direction = led + (power / before).where(before > 0, 0.0) * direction
        changed = _applied(levels[0], direction)
        curvature = _product(direction, changed)
        step = (power / curvature).where(going & (curvature > 0), 0.0)
        moved = step * direction
        values = values + moved
        # What is done waits for the others as it is, so that none depends on its neighbours.
        going = going & (moved.abs().amax(dim=(1, 2, 3), keepdim=True) > TOLERANCE)
        if not bool(going.any()):
            break
        residual = residual - step * changed
    return values[..., :height, :width]


def _levels(unknown: Tensor) -> list[_Level]:
    """From the pixels on, each grid with half as many; a block is unknown where all of it is."""
    height, width = unknown.shape[-2:]
    halvings = 0
    while min(height, width) > _COARSEST << halvings:
        halvings += 1
    block = 1 << halvings
    margin = (0, -width % block, 0, -height % block)
    inside = F.pad(torch.ones_like(unknown[:1]), margin)
    unknown = F.pad(unknown, margin)
    found = []
    for number in range(halvings + 1):
        if number:
            unknown = F.avg_pool2d(unknown, 2).floor()
            inside = F.max_pool2d(inside, 2)
        diagonal = _neighbourhood(inside)
        found.append(_Level(unknown, diagonal, unknown / diagonal.clamp(min=1)))
    return found


def _cycle(residual: Tensor, levels: list[_Level]) -> Tensor:
    """About what solves the equations for a residual: a symmetric V-cycle, from zero."""
    level, *coarser = levels
    found = level.step * residual
    if not coarser:
        for _ in range(_SWEEPS):
            found = found + level.step * (residual - _applied(level, found))
        return found
    blocks = 4 * F.avg_pool2d(residual - _applied(level, found), 2)
    wide = F.interpolate(_cycle(blocks, coarser), scale_factor=2)
    found = found + level.unknown * wide
    return found + level.step * (residual - _applied(level, found))


def _applied(level: _Level, values: Tensor) -> Tensor:
    return level.unknown * (level.diagonal * values - _neighbourhood(values))


def _neighbourhood(values: Tensor) -> Tensor:
    """4 times a value, twice those beside, above and below, once those across the corners: 12
    times the weights, and 4 of the value itself that the diagonal has too.
    """
    sums = F.pad(values, (1, 1, 1, 1))
    for _ in range(2):
        sums = sums[..., :-1] + sums[..., 1:]
    for _ in range(2):
        sums = sums[..., :-1, :] + sums[..., 1:, :]
    return sums


def _product(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(2, 3), keepdim=True)
