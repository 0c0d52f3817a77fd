"""The directions in which feature maps vary most."""

from __future__ import annotations

import torch
from torch import Tensor

from camcli.errors import UsageError

_MOST_PLACES = 4096


def first_component(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w): each place's share in the maps' first singular vector.

    M v_1 of the uncentred (h w, C) matrix M, which is sigma_1 u_1, with the sign that agrees with
    the sum over channels. Maps that are not finite give a map that is not finite.
    """
    _, channels, height, width = maps.shape
    matrix, finite = _matrices(maps)
    matrix = matrix.mT
    if height * width <= channels:  # the smaller of the two Gram matrices
        values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
        component = vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
        component = (vectors[:, None, :, -1] @ matrix)[:, 0]
    agreement = (component * matrix.sum(dim=1)).sum(dim=1, keepdim=True)
    component = component * torch.where(agreement < 0, -1.0, 1.0)
    return _shown(component, finite, maps)


def first_kernel_component(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, h, w): sqrt(l_1) u_1 of the centred kernel matrix tanh(a b / C + 1)."""
    _, channels, height, width = maps.shape
    if height * width > _MOST_PLACES:
        raise UsageError(
            f"kpcacam compares all pairs of places: a layer of {height}x{width} has more than "
            f"{_MOST_PLACES:,}; choose a later --layer"
        )
    matrix, finite = _matrices(maps)
    rows = matrix - matrix.mean(dim=1, keepdim=True)
    kernel = (rows @ rows.mT / channels + 1).tanh()
    centred = kernel - kernel.mean(dim=1, keepdim=True) - kernel.mean(dim=2, keepdim=True)
    values, vectors = torch.linalg.eigh(centred + kernel.mean(dim=(1, 2), keepdim=True))
    # No kernel value exceeds 1: eigenvalues this small are what rounding makes of equal places.
    rounding = height * width * torch.finfo(kernel.dtype).eps
    strength = values[:, -1:].where(values[:, -1:] > rounding, 0.0)
    component = vectors[..., -1] * strength.sqrt()
    agreement = (component * rows.sum(dim=2)).sum(dim=1, keepdim=True)
    component = component * torch.where(agreement < 0, -1.0, 1.0)
    return _shown(component, finite, maps)


def strongest_factor(maps: Tensor, rank: int, updates: int) -> Tensor:
    """(N, C, h, w), not negative -> (N, h, w): of a factorisation into `rank` parts that are not
    negative, the places of the part with the largest norm (multiplicative updates, Lee & Seung).
    """
    matrix, finite = _matrices(maps)
    places, parts = _start(matrix, min(rank, *matrix.shape[1:]))
    tiny = torch.finfo(matrix.dtype).tiny
    for _ in range(updates):
        parts = parts * (places.mT @ matrix) / (places.mT @ places @ parts).clamp(min=tiny)
        places = places * (matrix @ parts.mT) / (places @ (parts @ parts.mT)).clamp(min=tiny)
    length = parts.norm(dim=2)
    best = (places.norm(dim=1) * length).argmax(dim=1)
    rows = torch.arange(len(maps), device=matrix.device)
    component = places[rows, :, best] * length[rows, best, None]
    return _shown(component, finite, maps)


def _start(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Of every singular pair the stronger sign's part; zeros are lifted so that they can grow
    (NNDSVD, Boutsidis & Gallopoulos 2008).
    """
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    left, right, root = left[..., :rank], right[:, :rank], values[:, :rank].sqrt()
    plus = left.relu().norm(dim=1) * right.relu().norm(dim=2)
    minus = (-left).relu().norm(dim=1) * (-right).relu().norm(dim=2)
    sign = torch.where(minus > plus, -1.0, 1.0)
    floor = 1e-3 * matrix.mean(dim=(1, 2)).sqrt()[:, None, None]
    places = (left * sign[:, None, :]).relu() * root[:, None, :]
    parts = (right * sign[:, :, None]).relu() * root[:, :, None]
    return places + floor, parts + floor


def _matrices(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Places by channels, (N, h w, C) in float64; and which pictures are finite, others zero."""
    maps = maps.cpu() if maps.device.type == "mps" else maps  # which has no float64
    finite = maps.flatten(1).isfinite().all(dim=1)
    return maps.where(finite[:, None, None, None], 0.0).flatten(2).mT.double(), finite


def _shown(component: Tensor, finite: Tensor, maps: Tensor) -> Tensor:
    """One value a place, (N, h w) -> (N, h, w); what was not finite is not shown as if it were."""
    heat = component.where(finite[:, None], torch.nan)
    return heat.reshape(len(maps), *maps.shape[2:]).to(maps.dtype).to(maps.device)
