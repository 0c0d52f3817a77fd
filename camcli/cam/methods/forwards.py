"""Methods that try variants: the score with a part masked, left out or shaken."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import method

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.cam.capture import LayerCapture, Make


@method(title="Score-CAM", paper="arXiv 1910.01279", needs="forwards")
def scorecam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w = softmax_k f(x * s(up(A_k))), f the score, x the view, up bilinear to
    its size, s from 0 to 1 (Wang 2020, eqs. 7-8 and algorithm 1, arXiv 1910.01279).

    The paper's baseline f(0) is the same for every channel and leaves the softmax as it is.

    Cost: one forward pass of the network for every channel.
    Guaranteed: nothing about the score.
    Known to get wrong: masked pictures are unlike any the network was trained on; the softmax
    over logits often leaves a few channels with all of the weight.
    """
    scores = capture.further.scores_of_views(
        capture.activation.shape[1], _masked(capture), shared="scorecam"
    )
    return scores.softmax(dim=1)[:, :, None, None] * capture.activation


@method(title="Ablation-CAM", paper="WACV 2020", needs="forwards")
def ablationcam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w_k = (y - y_k) / |y|, y_k the score with A_k set to zero (Desai &
    Ramaswamy 2020, eq. 2, WACV; the paper divides by y, of which the size is kept but not the
    sign, so that a negative score does not turn the map around).

    Cost: one run of what follows the layer for every channel.
    Guaranteed: where the head is linear in A, w_k is the sum of what HiResCAM gives the channel,
    over |y|.
    Known to get wrong: a strong channel counts twice, in its weight and in its map; channels that
    say the same cover for each other, and both get no weight.
    """
    activation, score = capture.activation, capture.further.score

    def ablated(picture: int, channels: Tensor) -> Tensor:
        maps = activation[picture].repeat(len(channels), 1, 1, 1)
        maps[range(len(channels)), channels] = 0
        return maps

    without = capture.further.scores_of_maps(activation.shape[1], ablated, shared="ablationcam")
    weight = (score[:, None] - without) / score.abs()[:, None]
    return weight.where(score[:, None] != 0, 0.0)[:, :, None, None] * activation


@method(title="SS-CAM", paper="arXiv 2006.14255", needs="forwards")
def sscam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w = softmax_k mean_n f(x * (s(up(A_k)) + e_kn)), e normal with
    deviation 2, n = 1..10 (Wang 2020, arXiv 2006.14255: noise on the mask; the rest as Score-CAM).

    Noise is seeded from the picture.

    Cost: ten forward passes of the network for every channel.
    Guaranteed: nothing about the score.
    Known to get wrong: as Score-CAM; noise of that size leaves little of the mask.
    """
    samples, deviation = 10, 2.0
    further, masks = capture.further, _masks(capture)

    def noisy(picture: int, variants: Tensor) -> Tensor:
        mask = masks(picture, variants // samples)
        noise = mask.new_empty(mask.shape, device="cpu")
        for row, variant in zip(noise, variants.tolist(), strict=True):
            row.normal_(0, deviation, generator=further.generator(picture, variant))
        mask = mask + noise.to(mask.device)
        return mask * further.view[picture]

    channels = capture.activation.shape[1]
    scores = further.scores_of_views(channels * samples, noisy, shared="sscam")
    weight = scores.reshape(-1, channels, samples).mean(dim=2).softmax(dim=1)
    return weight[:, :, None, None] * capture.activation


@method(title="IS-CAM", paper="arXiv 2010.03023", needs="forwards")
def iscam(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w = softmax_k mean_n f(x * (n / 10) s(up(A_k))), n = 1..10 (Naidu 2020,
    arXiv 2010.03023: the mask is faded in; weights as in Score-CAM).

    Cost: ten forward passes of the network for every channel.
    Guaranteed: nothing about the score.
    Known to get wrong: as Score-CAM.
    """
    steps = 10
    masked, channels = _masked(capture), capture.activation.shape[1]

    def faded(picture: int, variants: Tensor) -> Tensor:
        share = (variants % steps + 1) / steps
        return share[:, None, None, None] * masked(picture, variants // steps)

    scores = capture.further.scores_of_views(channels * steps, faded, shared="iscam")
    weight = scores.reshape(-1, channels, steps).mean(dim=2).softmax(dim=1)
    return weight[:, :, None, None] * capture.activation


@method(title="Smooth Grad-CAM++", paper="arXiv 1908.01224", needs="forwards")
def smoothgradcampp(capture: LayerCapture) -> Tensor:
    """L = sum_k w_k A_k, w_k = sum_ij D2 / (2 D2 + relu(S_k D3)) relu(D1), D1, D2, D3 the means of
    G, G², G³ over 4 views with normal noise of deviation 0.3, S_k = sum_ij A_k (Omeiza 2019,
    arXiv 1908.01224; in units of the normalised view).

    The paper's alpha has D1 above the bar, which does not become Grad-CAM++ without noise; D2
    does. S D3 is rectified, so that no pole arises. Noise is seeded from the picture.

    Cost: four forward passes with a gradient of the head each.
    Guaranteed: nothing about the score.
    Known to get wrong: as Grad-CAM++.
    """
    samples, deviation = 4, 0.3
    further = capture.further
    gradients = []
    for sample in range(samples):
        noise = further.view.new_zeros(further.view.shape, device="cpu")
        for n in range(further.count):
            noise[n].normal_(generator=further.generator(n, sample))
        gradients.append(
            further.at(further.view + deviation * noise.to(further.view.device)).gradient
        )
    first = sum(gradients[1:], gradients[0]) / samples
    second = sum((g**2 for g in gradients[1:]), gradients[0] ** 2) / samples
    third = sum((g**3 for g in gradients[1:]), gradients[0] ** 3) / samples
    total = capture.activation.relu().sum(dim=(2, 3), keepdim=True)
    alpha = (second / (2 * second + (total * third).relu())).where(second > 0, 0.0)
    return (alpha * first.relu()).sum(dim=(2, 3), keepdim=True) * capture.activation


@method(title="Recipro-CAM", paper="arXiv 2209.14074", needs="forwards")
def reciprocam(capture: LayerCapture) -> Tensor:
    """L_ij = p_c of the network with A kept at the place ij alone and zero elsewhere, p the
    softmax (Byun & Lee 2022, arXiv 2209.14074, masks of one place).

    Cost: one run of what follows the layer for every place.
    Guaranteed: nothing about the score.
    Known to get wrong: one place alone is unlike any input of the head; every place is judged
    without its neighbours.
    """
    activation = capture.activation
    channels, height, width = activation.shape[1:]

    def alone(picture: int, places: Tensor) -> Tensor:
        kept = activation.new_zeros(len(places), channels, height * width)
        rows = range(len(places))
        kept[rows, :, places] = activation[picture].flatten(1).T[places]
        return kept.reshape(-1, channels, height, width)

    chances = capture.further.scores_of_maps(
        height * width, alone, probability=True, shared="reciprocam"
    )
    return chances.reshape(-1, height, width)


@method(title="Group-CAM", paper="arXiv 2103.13859", needs="forwards")
def groupcam(capture: LayerCapture) -> Tensor:
    """L = sum_g r_g M_g over 32 groups of neighbouring channels; M_g = s(up(m_g)), m_g = relu of
    the group's share in Grad-CAM, its lowest 70 % set to zero; r_g = p_c(x M_g + b (1 - M_g)) -
    p_c(b), b the view blurred by a Gaussian of deviation 50 (Zhang 2021, arXiv 2103.13859).

    The map has the view's resolution.

    Cost: 33 forward passes of the network.
    Guaranteed: nothing about the score.
    Known to get wrong: which channels share a group is an accident of their order.
    """
    from camcli.cam.masks import blurred, enlarged, unit

    further, size = capture.further, capture.further.size
    shares = capture.gradient.mean(dim=(2, 3), keepdim=True) * capture.activation
    groups = [part.sum(dim=1) for part in shares.chunk(32, dim=1)]
    maps = capture.activation.new_zeros(len(shares), len(groups), *shares.shape[2:])
    for g, group in enumerate(groups):
        maps[:, g] = group.relu()
    bar = maps.flatten(2).quantile(0.7, dim=2)[:, :, None, None]
    masks = unit(enlarged(maps.where(maps > bar, 0.0), size))
    base = blurred(further.view, 25, 50.0)

    def mixed(picture: int, variants: Tensor) -> Tensor:
        # The last variant is the blurred view itself.
        mask = masks[picture, variants.clamp(max=len(groups) - 1), None]
        mask = mask * (variants < len(groups))[:, None, None, None]
        return further.view[picture] * mask + base[picture] * (1 - mask)

    chances = further.scores_of_views(len(groups) + 1, mixed, probability=True)
    gain = chances[:, :-1] - chances[:, -1:]
    return (gain[:, :, None, None] * masks).sum(dim=1)


def _masks(capture: LayerCapture) -> Make:
    """Channels of a picture as masks over the view, (M, 1, H, W), from 0 to 1."""
    from camcli.cam.masks import enlarged, unit

    def masks(picture: int, channels: Tensor) -> Tensor:
        maps = capture.activation[picture, channels][:, None]
        return unit(enlarged(maps, capture.further.size))

    return masks


def _masked(capture: LayerCapture) -> Make:
    """The view of a picture through each of these masks, (M, 3, H, W)."""
    masks = _masks(capture)

    def masked(picture: int, channels: Tensor) -> Tensor:
        return capture.further.view[picture] * masks(picture, channels)

    return masked
