"""Metrics of how a map answers to changes of the picture (Yeh 2019)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camcli.registry import metric

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.evaluation.subject import Subject

SQUARES = 64
SAMPLES, RADIUS = 10, 0.02


@metric(
    title="infidelity",
    paper="arXiv 1901.09392",
    better="lower",
    kind="faithfulness",
    needs="forwards",
    pictures=100,
)
def infidelity(subject: Subject) -> list[float | None]:
    """mean_I (b I.L - (f(x) - f(x - I)))² / mean_I (f(x) - f(x - I))² (Yeh 2019, arXiv 1901.09392,
    definition 2.1), f the target's logit; I removes a random square, 64 of them, of 1/8 to 1/2 of
    the view's side, for the mean colour of the data set; I.L is the sum of the signed map there.

    b >= 0 is the best factor, for maps come in units of their own, and division by what there is
    to explain gives every picture the same weight: 0 is perfect, 1 as good as no map.

    Cost: 65 forward passes a picture, which all maps share.
    Known to get wrong: squares are unlike any picture the network was trained on.
    """
    import torch

    corners = _squares(subject)
    rows = torch.arange(subject.view.shape[1])
    columns = torch.arange(subject.view.shape[2])
    side, top, left = corners[:, :, None]
    down = (rows >= top) & (rows < top + side)
    across = (columns >= left) & (columns < left + side)
    masks = (down[:, :, None] & across[:, None, :]).to(subject.view.device)
    scores = subject.shared_scores(SQUARES, lambda chosen: subject.view * ~masks[chosen][:, None])
    change = subject.score[:, None] - scores
    covered = torch.from_numpy(subject.heat).double().flatten(1) @ masks.cpu().double().flatten(1).T
    along, size = (covered * change).sum(dim=1), covered.square().sum(dim=1)
    factor = (along / size).where(size > 0, 0.0).clamp(min=0)
    missed = (factor[:, None] * covered - change).square().mean(dim=1)
    total = change.square().mean(dim=1)
    return [float(m / t) if t > 0 else None for m, t in zip(missed, total, strict=True)]


@metric(
    title="max-sensitivity",
    paper="arXiv 1901.09392",
    better="lower",
    kind="robustness",
    needs="explaining",
    pictures=30,
)
def max_sensitivity(subject: Subject) -> list[float | None]:
    """max_e |L(x + e) - L(x)| / |L(x)| (Yeh 2019, arXiv 1901.09392, definition 3.2) over 10 uniform
    e with every value within 0.02 of the normalised view, L the signed map of the same target.

    No value for a map of zeros.

    Cost: explaining 11 times, for all maps of a picture together.
    Known to get wrong: a map that does not look at the picture is perfectly stable, so that the
    random baseline scores 0.
    """
    import torch

    shape = (SAMPLES, *subject.view.shape)
    noise = (2 * torch.rand(shape, generator=subject.generator("sensitivity")) - 1) * RADIUS
    noise = torch.cat([torch.zeros(1, *shape[1:]), noise]).to(subject.view.device)
    return [_largest_change(maps) for maps in subject.explained_again(subject.view + noise)]


def _largest_change(maps: Tensor) -> float | None:
    """Of maps (1 + samples, h, w) the largest distance to the first, over its norm."""
    flat = maps.double().flatten(1)
    own = flat[0].norm()
    return float((flat[1:] - flat[0]).norm(dim=1).max() / own) if own > 0 else None


def _squares(subject: Subject) -> Tensor:
    """Side, top and left of each square, (3, squares); squares lie within the view."""
    import torch

    height, width = subject.view.shape[1:]
    generator = subject.generator("squares")
    shortest = min(height, width)
    u, v, w = torch.rand(3, SQUARES, generator=generator, dtype=torch.float64)
    low, high = max(1, shortest // 8), max(1, shortest // 2)
    side = (low + u * (high - low + 1)).floor().clamp(max=high)
    top = (v * (height - side + 1)).floor()
    left = (w * (width - side + 1)).floor()
    return torch.stack([side, top, left])
