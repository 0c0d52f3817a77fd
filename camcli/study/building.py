"""Building a study: the page for raters, and the key that says what they were shown.

The page holds opaque ids, drawings, and the words of its questions. Ids are keyed hashes whose salt
is random and in the key alone, so that not even who knows the seed and the runs can tell from the
page which side is which.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import camcli
from camcli.errors import UsageError
from camcli.outputs.files import atomic, writing
from camcli.study import drawing, page
from camcli.study.arms import NAMES, Arm
from camcli.study.choosing import Case, Chooser

Json = dict[str, Any]
PAGE, KEY = "study.html", "key.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Plan:
    """How a study is to be."""

    arms: tuple[Arm, ...]
    protocol: str
    pictures: int
    seed: int
    truth: str | None
    choices: int
    size: int
    max_pixels: int


class Builder:
    """One study. `complain` is told which photo cannot be shown, and why."""

    def __init__(self, plan: Plan, complain: Callable[[str], None]) -> None:
        self.plan, self._complain = plan, complain
        self._random = Random(plan.seed)
        self._salt = secrets.token_bytes(32)
        self.chooser = Chooser(plan.arms, plan.truth, plan.protocol == "classes")
        self.alike = self.failed = 0
        """Cases whose drawings nobody could tell apart, and photos that cannot be read."""

    def build(self, folder: Path, advance: Callable[[], None]) -> int:
        """Write page and key; how many items there are. UsageError where there are none."""
        if (folder / KEY).exists():
            raise UsageError(
                f"'{folder}' holds the key of a study, without which its answers mean nothing; "
                "choose another directory with -o"
            )
        make = self._pairs if self.plan.protocol == "pairs" else self._singles
        items = list(make(advance))
        if not items:
            raise UsageError(self._nothing())
        self._random.shuffle(items)
        study = secrets.token_hex(8)
        key = self._key(study, {shown["id"]: secret for shown, secret in items})
        html = page.html(study, self.plan.protocol, [shown for shown, _ in items])
        with writing(folder):
            for name, content in ((KEY, json.dumps(key, indent=1) + "\n"), (PAGE, html)):
                with atomic(folder / name, durable=True) as file:
                    file.write(content.encode())
        return len(items)

    def _pairs(self, advance: Callable[[], None]) -> Iterator[tuple[Json, Json]]:
        """Two overlays of a picture; each side has every arm equally often, to one of odd pairs."""
        sides = [number % 2 == 0 for number in range(self.plan.pictures)]
        drawn = list(self._drawn(drawing.overlay, advance))
        sides = sides[: len(drawn)]
        self._random.shuffle(sides)
        for (case, photo, overlays), swapped in zip(drawn, sides, strict=True):
            order = "BA" if swapped else "AB"
            images = [overlays[NAMES.index(arm)] for arm in order]
            shown = {"id": self._id(), "photo": photo, "label": case.label, "images": images}
            yield shown, {"key": case.shown[0].result.key, "left": order[0], "right": order[1]}

    def _singles(self, advance: Callable[[], None]) -> Iterator[tuple[Json, Json]]:
        """One map at a time, and classes to choose from."""
        for case, _, images in self._drawn(drawing.spotlight, advance):
            names = self._choices(case)
            for arm, image in zip(NAMES, images, strict=False):
                about = {"key": case.shown[0].result.key, "arm": arm, "label": case.label}
                shown = {"id": self._id(), "choices": names, "images": [image]}
                yield shown, about | {"choices": names, "answer": names.index(case.label)}

    def _choices(self, case: Case) -> list[str]:
        """The class explained among the classes that the model gave the picture next."""
        ranked = [p["label"] for p in case.shown[0].record["predictions"]]
        others = [label for label in dict.fromkeys(ranked) if label != case.label]
        names = [case.label, *others[: self.plan.choices - 1]]
        self._random.shuffle(names)
        return names

    def _drawn(
        self, draw: Callable[..., Any], advance: Callable[[], None]
    ) -> Iterator[tuple[Case, str, list[str]]]:
        """As many cases as pictures are asked for, drawn: the photo, and a drawing of each side."""
        left = self.plan.pictures
        for case in self.chooser.cases(self._random):
            try:
                photo = drawing.photo_of(case, self.plan.size, self.plan.max_pixels)
                images = [draw(*found, photo) for found in drawing.maps_of(case)]
            except Exception as error:  # a decoder may raise anything
                self.failed += 1
                self._complain(f"{case.shown[0].result.source}: {error}")
                continue
            if len(images) > 1 and drawing.alike(*images):
                self.alike += 1
                continue
            yield case, drawing.data_uri(photo), [drawing.data_uri(image) for image in images]
            advance()
            left -= 1
            if not left:
                return

    def _id(self) -> str:
        return hmac.new(self._salt, secrets.token_bytes(16), hashlib.sha256).hexdigest()[:16]

    def _key(self, study: str, items: dict[str, Json]) -> Json:
        plan = self.plan
        return {
            "camcli_version": camcli.__version__,
            "schema_version": SCHEMA_VERSION,
            "study": study,
            "protocol": plan.protocol,
            "seed": plan.seed,
            "salt": self._salt.hex(),
            "truth": plan.truth,
            "arms": {name: arm.about for name, arm in zip(NAMES, plan.arms, strict=False)},
            "items": items,
        }

    def _nothing(self) -> str:
        chooser = self.chooser
        if self.alike:
            return (f"on all {self.alike} pictures the two sides draw the same map, so there is "
                    "nothing to compare; give other methods or runs")  # fmt: skip
        return (
            f"no picture can be shown: {chooser.wrong} were predicted wrong, on {chooser.unlike} "
            f"the predictions or photos differ, {self.failed + chooser.unreadable} cannot be read; "
            "explain the same pictures on both sides"
        )


def remarks(builder: Builder) -> Sequence[str]:
    """What the organiser should know of how pictures were chosen."""
    chooser, plan = builder.chooser, builder.plan
    found = []
    if chooser.models_differ and plan.truth is None:
        found.append("without --truth, pictures are those on which both predict the same class")
    for number, what in (
        (chooser.wrong, "left out because a prediction is wrong or its class not given"),
        (chooser.unlike, "left out because the predictions or photos differ"),
        (builder.alike, "left out because both sides draw the same"),
        (builder.failed + chooser.unreadable, "that cannot be read"),
    ):
        if number:
            found.append(f"{number:,} {what}")
    return found
