"""Methods that fuse several layers into one map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from camcli.cam.methods.gradient import gradcam, gradcampp, layercam
from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.cam.capture import LayerCapture


@method(title="LayerCAM fusion", paper="IEEE TIP 2021", needs="gradient", scope="layers")
def layercam_fusion(captures: Sequence[LayerCapture]) -> Tensor:
    """L = max_l up(tanh(2 M_l / max M_l)), M_l = relu of LayerCAM on layer l, up bilinear to the
    finest layer (Jiang 2021, eq. 9, IEEE TIP 30, 10.1109/TIP.2021.3089943; the paper scales
    the maps of shallow layers only, here all are scaled alike).

    Cost: one forward pass recorded from the first of the layers on, and one gradient.
    Guaranteed: nothing about the score.
    Known to get wrong: every layer counts the same, however little the score depends on it.
    """
    from camcli.cam.masks import peaked

    maps = [(2 * peaked(layercam(capture).sum(dim=1))).tanh() for capture in captures]
    fused = _at_finest(maps)
    return fused.amax(dim=1)


@method(title="Refine-CAM", paper="arXiv 2605.14641", needs="gradient", scope="layers")
def refinecam(captures: Sequence[LayerCapture]) -> Tensor:
    """L = prod_l s(up(M_l)), M_l = relu of Grad-CAM++ on layer l, up bilinear to the view, s from
    0 to 1 (arXiv 2605.14641): what coarse layers find, with the edges of fine ones.

    The map has the view's resolution. A layer whose map is the same everywhere empties the product.

    Cost: one forward pass recorded from the first of the layers on, and one gradient.
    Guaranteed: nothing about the score.
    Known to get wrong: a place that one layer leaves out is lost, whatever the others show.
    """
    from camcli.cam.masks import enlarged, unit

    size = captures[0].further.size
    maps = [gradcampp(capture).sum(dim=1, keepdim=True).relu() for capture in captures]
    product = unit(enlarged(maps[0], size))
    for coarse in maps[1:]:
        product = product * unit(enlarged(coarse, size))
    return product[:, 0]


@method(title="Winsor-CAM", paper="arXiv 2507.10846", needs="gradient", scope="layers")
def winsorcam(captures: Sequence[LayerCapture]) -> Tensor:
    """L = sum_l I'_l up(s(relu M_l)), M_l = Grad-CAM on layer l; importance I_l = relu(mean_k a_k)
    of Grad-CAM's weights, cut off above the 90 % quantile of those that are not zero, then
    stretched from 0.1 to 1; up bilinear to the finest layer (arXiv 2507.10846).

    The paper takes every convolution; here they are the layers asked for.

    Cost: one forward pass recorded from the first of the layers on, and one gradient.
    Guaranteed: nothing about the score.
    Known to get wrong: gradients of different layers are not in the same units, so that the
    importance compares what cannot be compared.
    """
    import torch

    from camcli.cam.masks import unit

    maps = _at_finest([unit(gradcam(capture).sum(dim=1).relu()) for capture in captures])
    weights = [capture.gradient.mean(dim=(1, 2, 3)).relu() for capture in captures]
    importance = torch.stack(weights, dim=1)
    counted = importance.where(importance > 0, torch.nan)
    cut = importance.minimum(counted.nanquantile(0.9, dim=1, keepdim=True).nan_to_num())
    low = cut.where(importance > 0, torch.inf).amin(dim=1, keepdim=True)
    high = cut.amax(dim=1, keepdim=True)
    stretched = 0.1 + 0.9 * ((cut - low) / (high - low)).where(high > low, 1.0)
    share = stretched.where(importance > 0, 0.0)
    return (share[:, :, None, None] * maps).sum(dim=1)


def _at_finest(maps: Sequence[Tensor]) -> Tensor:
    """Maps (N, h, w) of several sizes as (N, layers, H, W), H x W the finest of them."""
    import torch

    from camcli.cam.masks import enlarged

    height, width = max(tuple(one.shape[1:]) for one in maps)
    return torch.cat([enlarged(one[:, None], (height, width)) for one in maps], dim=1)
