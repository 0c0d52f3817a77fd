"""`--target`: which score of each picture is explained."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from camcli.errors import UsageError, did_you_mean
from camcli.records import CLASS_FIELDS, ImageRef, Target

if TYPE_CHECKING:
    from torch import Tensor

Choose = Callable[[ImageRef, Sequence[int]], tuple[Target, ...]]
_GIVEN = ("folder", "label")
_PATH_COLUMNS = ("path", "file", "filename", "image", "key")


class NoTargetError(Exception):
    """A picture without a target: its folder names no class, or the CSV has no row for it."""


@dataclass(frozen=True)
class Classes:
    """The classes of a model: how many, and their labels where they are known."""

    count: int
    labels: tuple[str, ...] | None = None

    def label(self, index: int) -> str:
        """The label, or the index where labels are not known."""
        return self.labels[index] if self.labels else str(index)

    def named(self, name: str) -> list[int]:
        """The indices of the classes of that index or label: data sets repeat some labels."""
        if name.isdecimal() and int(name) < self.count:
            return [int(name)]
        wanted = name.casefold()
        return [i for i, label in enumerate(self.labels or ()) if label.casefold() == wanted]

    def find(self, name: str) -> int:
        """The index of a class given by index or label; UsageError where it is not one class."""
        found = self.named(name)
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"class '{name}' is ambiguous: give one of the indices {found}")
        hint = did_you_mean(name, self.labels or ()) or "."
        raise UsageError(f"no class '{name}' among {self.count}{hint}")

    def name(self, target: Target) -> str:
        """`tabby`, `tabby - tiger cat` or `- tabby`."""
        plus = "" if target.index is None else self.label(target.index)
        if target.against is None:
            return plus
        return f"{plus} - {self.label(target.against)}".strip()


def parse_target(text: str, classes: Classes) -> Choose:
    """The rule that picks each picture's targets, from its name and its classes by rank.

    `predicted`, `top:K`, `CLASS[,CLASS...]`, `A-B` (a contrast), `-A` (a counterfactual),
    `folder` (the parent folder's name), `label` (the class beside a picture in an archive),
    `csv:FILE`. Raises UsageError for a class that does not
    exist, before any picture is read.
    """
    if text == "predicted":
        return lambda ref, ranked: (Target(ranked[0]),)
    if text.startswith("top:"):
        count = _top_count(text, classes)
        return lambda ref, ranked: tuple(Target(index) for index in ranked[:count])
    if text in _GIVEN or text.startswith("csv:"):
        given = given_class(text, classes)
        return lambda ref, ranked: (Target(given(ref)),)
    fixed = [_combination(part.strip(), classes) for part in _parts(text, classes)]
    distinct = tuple(dict.fromkeys(fixed))
    return lambda ref, ranked: distinct


def given_class(text: str, classes: Classes, option: str = "--target") -> Callable[[ImageRef], int]:
    """The rule that reads each picture's given class: `folder`, `label` or `csv:FILE`.

    It raises NoTargetError for a picture of which nothing is given. `option` is named where the
    table cannot be read, which is a UsageError.
    """
    if text == "folder":
        return lambda ref: _folder_class(ref, classes)
    if text == "label":
        return lambda ref: _label_class(ref, classes)
    return _csv_rule(text[4:], classes, option)


def score(logits: Tensor, targets: Sequence[Target]) -> Tensor:
    """logit[index] - logit[against] of each picture, (N, classes) -> (N,)."""
    return _pick(logits, [t.index for t in targets]) - _pick(logits, [t.against for t in targets])


def _pick(logits: Tensor, indices: Sequence[int | None]) -> Tensor:
    present = [index is not None for index in indices]
    if not any(present):
        return logits.new_zeros(len(indices))
    chosen = logits[range(len(indices)), [index or 0 for index in indices]]
    return chosen if all(present) else chosen * logits.new_tensor(present)


def _top_count(text: str, classes: Classes) -> int:
    number = text[4:]
    if not number.isdecimal() or not 1 <= int(number) <= classes.count:
        raise UsageError(f"--target {text}: K must be a number from 1 to {classes.count}")
    return int(number)


def _parts(text: str, classes: Classes) -> list[str]:
    """Split at commas, except where the whole is one label that contains some."""
    if classes.named(text):
        return [text]
    return [part for part in text.split(",") if part.strip()] or [text]


def _combination(text: str, classes: Classes) -> Target:
    """A class, `-A`, or `A-B`; labels may contain hyphens, so every split is tried."""
    if classes.named(text):
        return Target(classes.find(text))
    if text.startswith("-"):
        return Target(None, classes.find(text[1:].strip()))
    words = text.split("-")
    for cut in range(1, len(words)):
        plus, minus = "-".join(words[:cut]).strip(), "-".join(words[cut:]).strip()
        if classes.named(plus) and classes.named(minus):
            return Target(classes.find(plus), classes.find(minus))
    return Target(classes.find(text))


def _folder_class(ref: ImageRef, classes: Classes) -> int:
    folder = os.path.basename(os.path.dirname(os.path.abspath(ref.path)))
    try:
        return classes.find(folder)
    except UsageError as error:
        raise NoTargetError(f"the folder '{folder}' is no class: {error}") from error


def _label_class(ref: ImageRef, classes: Classes) -> int:
    if ref.label is None:
        raise NoTargetError("no class lies beside it: no .cls or .json member in its archive")
    try:
        return classes.find(ref.label)
    except UsageError as error:
        raise NoTargetError(f"what lies beside it is no class: {error}") from error


def _csv_rule(path: str, classes: Classes, option: str) -> Callable[[ImageRef], int]:
    """Rows are matched by key, by the path as given, or by the path beside the CSV file."""
    rows = _read_csv(path, classes, option)
    base = os.path.dirname(os.path.abspath(path))
    by_name = {os.path.normpath(name): index for name, index in rows}
    by_path = {os.path.join(base, name): index for name, index in by_name.items()}

    def choose(ref: ImageRef) -> int:
        for found in (
            by_name.get(ref.key),
            by_name.get(os.path.normpath(ref.path)),
            by_path.get(os.path.abspath(ref.path)),
        ):
            if found is not None:
                return found
        raise NoTargetError(f"no row for '{ref.key}' in {path}")

    return choose


def _read_csv(path: str, classes: Classes, option: str) -> list[tuple[str, int]]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            where = next((c for c in _PATH_COLUMNS if c in columns), None)
            what = next((c for c in CLASS_FIELDS if c in columns), None)
            if where is None or what is None:
                raise UsageError(
                    f"{option} csv:{path}: the first line must name a column of "
                    f"{'|'.join(_PATH_COLUMNS)} and one of {'|'.join(CLASS_FIELDS)}, "
                    f"not {columns}"
                )
            return [(row[where] or "", classes.find(row[what] or "")) for row in reader]
    except UsageError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{option} csv:{path} cannot be read: {error}") from error
