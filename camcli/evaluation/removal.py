"""Metrics that remove pixels of the view, or keep only some, and ask the network again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from camcli.registry import metric

if TYPE_CHECKING:
    from torch import Tensor

    from camcli.evaluation.subject import Subject

Fill = Literal["mean", "blur"]
STEPS = 16
_PICTURES = 100


@metric(
    title="deletion, mean colour",
    paper="arXiv 1806.07421",
    better="lower",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def deletion_mean(subject: Subject) -> list[float | None]:
    """The area under p(target) while the most relevant pixels are taken away, 1/16 of the view at
    a time (Petsiuk 2018, arXiv 1806.07421), by the trapezoid rule; pixels that are gone have the
    view's mean colour.

    Pixels are ranked by the signed map on the view, ties at random.

    Cost: 15 forward passes a map, and one a picture.
    Known to get wrong: the holes are themselves something to see: which fill is taken can reverse
    an order of methods, so there are two.
    """
    return _deletion(subject, "mean")


@metric(
    title="deletion, blur",
    paper="arXiv 1806.07421",
    better="lower",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def deletion_blur(subject: Subject) -> list[float | None]:
    """As deletion_mean; pixels that are gone are those of the blurred view, by a Gaussian of 1/20
    of its shorter side.

    Cost: 15 forward passes a map, and one a picture.
    Known to get wrong: what is large and smooth is still there when it is blurred.
    """
    return _deletion(subject, "blur")


@metric(
    title="insertion, mean colour",
    paper="arXiv 1806.07421",
    better="higher",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def insertion_mean(subject: Subject) -> list[float | None]:
    """The area under p(target) while the most relevant pixels appear, 1/16 of the view at a time,
    where before was its mean colour (Petsiuk 2018, arXiv 1806.07421).

    Cost: 15 forward passes a map, and one a picture, which deletion_mean shares.
    Known to get wrong: as deletion_mean.
    """
    return _insertion(subject, "mean")


@metric(
    title="insertion, blur",
    paper="arXiv 1806.07421",
    better="higher",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def insertion_blur(subject: Subject) -> list[float | None]:
    """As insertion_mean, out of the blurred view of deletion_blur.

    Cost: 15 forward passes a map, and one a picture, which deletion_blur shares.
    Known to get wrong: as deletion_blur.
    """
    return _insertion(subject, "blur")


@metric(
    title="average drop",
    paper="arXiv 1710.11063",
    better="lower",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def average_drop(subject: Subject) -> list[float | None]:
    """max(0, Y - O) / Y, Y = p(target) on the view and O on the view times the map (Chattopadhay
    2018, arXiv 1710.11063); a share, not a percentage.

    The map is rectified and divided by its maximum; the product is taken of the normalised view,
    so that what the map leaves out has the mean colour of the data set.

    Cost: one forward pass a map.
    Known to get wrong: a map that is bright everywhere drops nothing.
    """
    drops = (subject.chance - _shown(subject)).clamp(min=0) / subject.chance
    return drops.tolist()


@metric(
    title="increase in confidence",
    paper="arXiv 1710.11063",
    better="higher",
    kind="faithfulness",
    needs="forwards",
    pictures=_PICTURES,
)
def increase_in_confidence(subject: Subject) -> list[float | None]:
    """1 where p(target) is larger on the view times the map than on the view, else 0 (Chattopadhay
    2018, arXiv 1710.11063), as average_drop has it; the mean over pictures is a share.

    Cost: nothing beyond average_drop.
    Known to get wrong: as average_drop; a picture that is classified with certainty cannot gain.
    """
    return (_shown(subject) > subject.chance).double().tolist()


def _shown(subject: Subject) -> Tensor:
    """p(target) of each map on the view times that map."""
    from camcli.cam.masks import peaked

    def work() -> Tensor:
        masks = peaked(subject.on_device)[:, None]
        return subject.chances(1, lambda chosen: subject.view * masks[chosen])[:, 0]

    return subject.kept("shown", work)


def _deletion(subject: Subject, fill: Fill) -> list[float | None]:
    background = _background(subject, fill)
    inner = _exchanged(subject, subject.view, background)
    return _area(subject.chance, inner, _emptied(subject, fill, background))


def _insertion(subject: Subject, fill: Fill) -> list[float | None]:
    background = _background(subject, fill)
    inner = _exchanged(subject, background, subject.view)
    return _area(_emptied(subject, fill, background), inner, subject.chance)


def _exchanged(subject: Subject, before: Tensor, after: Tensor) -> Tensor:
    """p(target) of each map while pixels of `before` become those of `after`, the most relevant
    first, (M, steps - 1): both ends are known.
    """
    inner, each = STEPS - 1, subject.ranks[0].numel() / STEPS

    def exchanged(chosen: Tensor) -> Tensor:
        changed = subject.ranks[chosen // inner] < (chosen % inner + 1)[:, None, None] * each
        return after.where(changed[:, None], before)

    return subject.chances(inner, exchanged)


def _area(first: Tensor, inner: Tensor, last: Tensor) -> list[float | None]:
    """The trapezoid rule over [0, 1]: (M,), (M, steps - 1), (M,)."""
    areas: list[float | None] = ((inner.sum(dim=1) + (first + last) / 2) / STEPS).tolist()
    return areas


def _emptied(subject: Subject, fill: Fill, background: Tensor) -> Tensor:
    """p(target) of each map where all pixels are gone."""
    return subject.kept(
        f"emptied-{fill}", lambda: subject.shared_chances(1, lambda _: background[None])[:, 0]
    )


def _background(subject: Subject, fill: Fill) -> Tensor:
    """What takes the place of pixels that are gone, (3, H, W)."""
    view = subject.view
    if fill == "mean":
        return view.mean(dim=(1, 2), keepdim=True).expand_as(view)
    from camcli.cam.masks import blurred

    deviation = min(view.shape[1:]) / 20
    return blurred(view[None], round(3 * deviation), deviation)[0]
