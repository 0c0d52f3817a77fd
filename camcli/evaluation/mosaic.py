"""The grid pointing game: does a map of one class point at its own picture among four?

Böhle 2021, arXiv 2104.00032, section 4 and Rao 2022, arXiv 2205.10435, section 3.1. Nothing needs
to be marked: a class has evidence in one quarter of a mosaic and, as far as the others show other
things, in no other. A map that knows nothing scores 0.25 on average.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from camcli.images.geometry import Geometry
from camcli.models.loaded import LoadedModel
from camcli.records import Decoded, FileFacts, ImageRef

View = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
CONFIDENT = 0.5
"""The probability from which a picture's predicted class is taken for what it shows."""


@dataclass(frozen=True)
class Candidate:
    """A picture and its predicted class."""

    ref: ImageRef
    index: int
    probability: float


@dataclass(frozen=True)
class Mosaic:
    """Four pictures of four classes: upper left, upper right, lower left, lower right."""

    quarters: tuple[Candidate, ...]

    @property
    def ref(self) -> ImageRef:
        """A name for it: the keys of its pictures."""
        name = "+".join(quarter.ref.key for quarter in self.quarters)
        return ImageRef(name, name)


def mosaics(candidates: Iterable[Candidate], most: int, seed: int = 0) -> list[Mosaic]:
    """At most so many mosaics, each picture in one at most; the same whatever the order.

    Only confident pictures are used, in a seeded order. Each mosaic takes the classes of which most
    pictures are left, which makes as many mosaics as there can be.
    """
    waiting: dict[int, list[Candidate]] = defaultdict(list)
    confident = [c for c in candidates if c.probability >= CONFIDENT]
    for candidate in sorted(confident, key=lambda c: _place(c.ref.key, seed), reverse=True):
        waiting[candidate.index].append(candidate)
    heap = [(-len(own), _place(own[-1].ref.key, seed), index) for index, own in waiting.items()]
    heapq.heapify(heap)
    found: list[Mosaic] = []
    while len(heap) >= 4 and len(found) < most:
        chosen = [heapq.heappop(heap)[2] for _ in range(4)]
        quarters = [waiting[index].pop() for index in chosen]
        found.append(Mosaic(tuple(sorted(quarters, key=lambda c: _place(c.ref.key, seed)))))
        for index in chosen:
            if own := waiting[index]:
                heapq.heappush(heap, (-len(own), _place(own[-1].ref.key, seed), index))
    return found


def canvas_of(model: LoadedModel) -> LoadedModel:
    """The model for mosaics of two views by two at their own size where it takes such pictures, as
    a fully convolutional network with global pooling does; else the model itself, whose mosaics
    are of views shrunk to a quarter.
    """
    width, height = model.preprocessing.size
    size = 2 * width, 2 * height
    larger = replace(
        model, preprocessing=replace(model.preprocessing, size=size, resize=max(size), fit="squash")
    )
    blank = np.zeros((size[1], size[0], 3), np.uint8)
    try:
        with model.network.prepared(), torch.no_grad():
            logits = larger.logits(larger.inputs([blank, blank]))
    except Exception:  # a network may refuse a size in any way
        return model
    return larger if logits.shape == (2, model.classes.count) else model


def cells(size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """The (rows, columns) of the four quarters of a canvas of (width, height)."""
    across = slice(0, size[0] // 2), slice(size[0] // 2, size[0])
    down = slice(0, size[1] // 2), slice(size[1] // 2, size[1])
    return [(rows, columns) for rows in down for columns in across]


def laid_out(mosaic: Mosaic, views: Sequence[View], size: tuple[int, int]) -> Decoded:
    """The mosaic of four views (H, W, 3), as a picture of (width, height) that is its own view."""
    view = np.empty((size[1], size[0], 3), np.uint8)
    for own, (rows, columns) in zip(views, cells(size), strict=True):
        cell = columns.stop - columns.start, rows.stop - rows.start
        picture = Image.fromarray(own)
        if picture.size != cell:
            picture = picture.resize(cell, Image.Resampling.BILINEAR)
        view[rows, columns] = np.asarray(picture)
    geometry = Geometry(size, size, (0.0, 0.0, float(size[0]), float(size[1])))
    digest = hashlib.sha256(view.tobytes()).hexdigest()
    return Decoded(mosaic.ref, FileFacts(0, 0, digest), 1, geometry, view, None)


def quarter_mask(mosaic: Mosaic, size: tuple[int, int], index: int | None) -> Mask | None:
    """Where the picture of a class is, (height, width); None for a class of no quarter."""
    for quarter, cell in zip(mosaic.quarters, cells(size), strict=True):
        if quarter.index == index:
            mask = np.zeros(size[::-1], np.bool_)
            mask[cell] = True
            return mask
    return None


def _place(key: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()
