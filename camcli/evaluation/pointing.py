"""Metrics of where maps point: at marked objects, or at their own picture among four."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from camcli.registry import metric

if TYPE_CHECKING:
    from camcli.evaluation.subject import Subject
    from camcli.records import Cam


@metric(
    title="pointing game",
    paper="arXiv 1608.00507",
    better="higher",
    kind="localisation",
    needs="annotations",
)
def pointing_game(subject: Subject) -> list[float | None]:
    """1 where the hottest place lies on an object of the target's class or at most 15 pixels of the
    source from it, else 0 (Zhang 2016, arXiv 1608.00507).

    No value where no such object is marked, or where the network saw nothing of it.

    Cost: nothing further; it needs --annotations.
    Known to get wrong: one pixel decides, and large objects are hard to miss: see (random).
    """
    from camcli.evaluation.localisation import hits

    return _measured(subject, lambda cam, mask: float(hits(cam.cam, subject.image.geometry, mask)))


@metric(
    title="energy-based pointing game",
    paper="arXiv 1910.01279",
    better="higher",
    kind="localisation",
    needs="annotations",
)
def pointing_energy(subject: Subject) -> list[float | None]:
    """The share of the rectified map's sum that lies on objects of the target's class (Wang 2020,
    arXiv 1910.01279); as pointing_game where no object is.

    Cost: nothing further; it needs --annotations.
    Known to get wrong: small maps inside the object score best, whatever they leave out.
    """
    from camcli.evaluation.localisation import energy

    return _measured(subject, lambda cam, mask: energy(cam.cam, subject.image.geometry, mask))


def _settled(keys: Any, curves: Any, seed: int) -> Any:
    from camcli.evaluation.localisation import held_out_iou

    return held_out_iou(keys, curves, seed)


@metric(
    title="IoU of the thresholded map",
    paper="arXiv 2011.08891",
    better="higher",
    kind="localisation",
    needs="annotations",
    settle=_settled,
)
def segmentation_iou(subject: Subject) -> list[Any]:
    """|hot and object| / |hot or object|, hot where the rectified map reaches a share of its
    maximum; that share, for each method the best on one half of the pictures, is applied to the
    other half, whose values these are (Draelos & Carin 2020, arXiv 2011.08891).

    As pointing_game where no object is.

    Cost: nothing further; it needs --annotations, of enough pictures for two halves.
    Known to get wrong: boxes are no outlines; a network may rightly look at a part of an object.
    """
    from camcli.evaluation.localisation import overlaps

    return _measured(subject, lambda cam, mask: overlaps(cam.cam, subject.image.geometry, mask))


@metric(
    title="grid pointing game",
    paper="arXiv 2205.10435",
    better="higher",
    kind="localisation",
    needs="mosaics",
    pictures=200,
)
def grid_pointing(subject: Subject) -> list[float | None]:
    """Of a mosaic of four pictures of four confidently predicted classes, the share of each class's
    rectified map that lies on its own picture (Böhle 2021, arXiv 2104.00032; Rao 2022, arXiv
    2205.10435); a map that knows nothing scores 1/4.

    Mosaics are of two views by two where the model takes such pictures, else of shrunk views. Each
    value is the mean over the four classes of one mosaic; `pictures` are mosaics.

    Cost: explaining one picture of four times the size for every four pictures.
    Known to get wrong: a class may have evidence in another's picture too.
    """
    return [*pointing_energy(subject)]


def _measured(subject: Subject, value: Callable[[Cam, Any], Any]) -> list[Any]:
    masks = {target: subject.object(target) for target in dict.fromkeys(subject.targets)}
    return [
        None if (mask := masks[cam.target]) is None else value(cam, mask) for cam in subject.cams
    ]
