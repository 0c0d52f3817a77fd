"""Maps that know nothing of the network: what any method has to be better than."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (the field's name for it)
from torch import Tensor

RANDOM, EDGES = "(random)", "(edges)"
"""Uniform noise on the grid of the picture's first map, and the edges of its view."""
BASELINES = (RANDOM, EDGES)


def edges(view: Tensor) -> Tensor:
    """Sobel's gradient magnitude over all channels, (N, 3, H, W) -> (N, H, W); borders repeat."""
    across = view.new_tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    kernels = torch.stack([across, across.T])[:, None].repeat(view.shape[1], 1, 1, 1)
    slopes = F.conv2d(F.pad(view, (1, 1, 1, 1), "replicate"), kernels, groups=view.shape[1])
    return slopes.square().sum(dim=1).sqrt()
