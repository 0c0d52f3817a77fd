"""Annotations of any format, their pictures and classes matched to those of a run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from camcli.cam.targets import Classes
from camcli.errors import UsageError
from camcli.evaluation.annotations import coco, pngs, voc
from camcli.evaluation.annotations.naming import paired
from camcli.evaluation.annotations.page import Page
from camcli.evaluation.annotations.raster import Mask, Size
from camcli.records import Decoded

_FORMATS = "give COCO JSON, Pascal VOC XML (a file or a folder), or a folder of mask PNGs"
# From a stored to an upright picture, by EXIF orientation (EXIF 2.3, tag 0x0112).
_UPRIGHT: dict[int, Callable[[Mask], Mask]] = {
    2: np.fliplr,
    3: partial(np.rot90, k=2),
    4: np.flipud,
    5: np.transpose,
    6: partial(np.rot90, k=-1),
    7: lambda mask: np.rot90(np.transpose(mask), k=2),
    8: np.rot90,
}


class Annotations:
    """The masks of a run's pictures, in upright source pixels.

    `words` translates a class of the annotations into classes of the model, each by index or name;
    what it does not hold is a class's name or index itself.
    """

    def __init__(
        self,
        origin: str,
        pages: Iterable[Page],
        keys: Iterable[str],
        classes: Classes,
        words: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.origin = origin
        self._classes = classes
        self._words = {
            word: frozenset(classes.find(name) for name in names)
            for word, names in (words or {}).items()
        }
        known, keys = list(pages), list(keys)
        pairs = paired(keys, [page.name for page in known])
        self._pages = {key: known[number] for key, number in pairs.items()}
        self.unmatched = tuple(self._unmatched(keys, known))
        self._faults: dict[str, str] = {}

    @property
    def remarks(self) -> tuple[str, ...]:
        """What could not be used, in sentences."""
        if not self._faults:
            return self.unmatched
        key, fault = next(iter(self._faults.items()))
        count = len(self._faults)
        return (
            *self.unmatched,
            f"What {self.origin} has on {count:,} picture{'s' if count > 1 else ''} cannot be used "
            f"(the first: {key!r}: {fault}); mend it or leave it away.",
        )

    def on(self, image: Decoded, index: int | None) -> Mask | None:
        """The same as `mask`; what is damaged is none, and is among the remarks."""
        key = image.ref.key
        if key in self._faults:
            return None
        try:
            return self.mask(key, index, image.geometry.source, image.exif_orientation)
        except (OSError, ValueError) as error:
            self._faults[key] = reason(error)
            return None

    def mask(self, key: str, index: int | None, size: Size, orientation: int = 1) -> Mask | None:
        """The objects of a class on the upright picture of that size; None where none is marked.

        An object whose class is not told belongs to every class. Annotations made on the picture as
        it is stored, which their size tells, are turned upright; where both sizes are the same,
        they are taken for upright. Raises OSError and ValueError for what is damaged or of another
        picture.
        """
        page = self._pages.get(key)
        if page is None or index is None:
            return None
        own, marked = page.read()
        wanted = [m for m in marked if m.label is None or index in self._indices(m.label)]
        stored = size[::-1] if orientation in (5, 6, 7, 8) else size
        if own not in (None, size, stored):
            raise ValueError(
                f"its annotations are of {own[0]}x{own[1]} pixels, the picture of "
                f"{size[0]}x{size[1]}"
            )
        mask = np.zeros(size[::-1], np.bool_)
        for one in wanted:
            mask |= (
                one.draw(size) if own in (None, size) else _upright(one.draw(stored), orientation)
            )
        return mask if mask.any() else None

    def _indices(self, label: str) -> frozenset[int]:
        """The model's classes of that name; none where there is none, or more than one."""
        if label in self._words:
            return self._words[label]
        found = self._classes.named(label)
        return frozenset(found) if len(found) == 1 else frozenset()

    def _unmatched(self, keys: Sequence[str], pages: Sequence[Page]) -> Iterator[str]:
        """What could not be matched, in sentences; UsageError where nothing could."""
        missing = [key for key in keys if key not in self._pages]
        if len(missing) == len(keys):
            first = f" such as {pages[0].name!r}" if pages else ""
            raise UsageError(
                f"--annotations {self.origin} marks {len(pages):,} pictures{first}, none of which "
                f"is among the {len(keys):,} explained{f' ({keys[0]!r})' if keys else ''}; "
                "its names must be theirs"
            )
        if missing:
            yield (
                f"{len(missing):,} of {len(keys):,} pictures are not in {self.origin} (the first: "
                f"{missing[0]!r}) and are left out of what it measures."
            )
        used = Counter(label for page in self._pages.values() for label in page.labels)
        strange = [label for label in used if not self._indices(label)]
        if strange and len(strange) == len(used):
            raise UsageError(
                f"--annotations {self.origin}: none of its {len(used):,} classes, such as "
                f"{strange[0]!r}, is one class of the model; say which are meant with "
                '--annotation-classes FILE, a JSON file {"theirs": ["ours", ...]}'
            )
        if strange:
            yield (
                f"{len(strange):,} of {len(used):,} classes in {self.origin} (the first: "
                f"{strange[0]!r}) are no one class of the model and are left out; name them with "
                "--annotation-classes FILE."
            )


def open_annotations(
    path: Path,
    keys: Iterable[str],
    classes: Classes,
    words: Path | None = None,
    max_pixels: int = 10**8,
) -> Annotations:
    """The annotations in a file or a folder, for the pictures of these keys.

    Raises UsageError for what cannot be read, and where no picture or no class matches.
    """
    translated = None if words is None else read_words(words)
    try:
        pages = list(_pages(path, translated is not None, max_pixels))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"--annotations {path} cannot be read ({reason(error)}); {_FORMATS}"
        ) from error
    if not pages:
        raise UsageError(f"--annotations {path} marks no picture; {_FORMATS}")
    return Annotations(str(path), pages, keys, classes, translated)


def read_words(path: Path) -> dict[str, list[str]]:
    """Classes of annotations -> classes of the model, from JSON: a name, an index, or a list."""
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        lists = {word: own if isinstance(own, list) else [own] for word, own in content.items()}
        if not all(type(name) in (int, str) for own in lists.values() for name in own):
            raise ValueError("a class is neither a name nor an index")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f'--annotation-classes {path} cannot be read ({reason(error)}); give JSON, {{"theirs": '
            '["ours", ...]}'
        ) from error
    return {word: [str(name) for name in own] for word, own in lists.items()}


def reason(error: Exception) -> str:
    """In short, what is wrong with a file of annotations."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split())[:300]


def _pages(path: Path, by_class: bool, max_pixels: int) -> Iterator[Page]:
    if path.suffix.lower() == ".json":
        yield from coco.pages(path)
    elif path.suffix.lower() == ".xml":
        yield voc.page(path, path.stem)
    else:
        found = {suffix: sorted(path.rglob(f"*.{suffix}")) for suffix in ("xml", "png")}
        if not path.is_dir() or all(found.values()):
            raise ValueError("XML files and PNGs lie in it" if path.is_dir() else "not a folder")
        for file in found["xml"]:
            yield voc.page(file, _name(file, path))
        for file in found["png"]:
            yield pngs.page(file, _name(file, path), by_class, max_pixels)


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).with_suffix("").as_posix()


def _upright(mask: Mask, orientation: int) -> Mask:
    return _UPRIGHT[orientation](mask) if orientation in _UPRIGHT else mask
