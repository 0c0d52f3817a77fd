"""Which pictures are shown: those that both sides explained, in an order that only chance knows."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from camcli.outputs.record import Record
from camcli.outputs.results import Result
from camcli.study.arms import Arm, is_right


@dataclass(frozen=True)
class Shown:
    """One map of one side, to be drawn."""

    result: Result
    record: Record
    place: int
    """Which of the record's explanations it is."""

    @property
    def entry(self) -> Record:
        explanation: Record = self.record["explanations"][self.place]
        return explanation


@dataclass(frozen=True)
class Case:
    """One picture and class, with the map of every side."""

    label: str
    shown: tuple[Shown, ...]


class Chooser:
    """The cases of a study, in random order, and how many pictures could not be used."""

    def __init__(self, arms: Sequence[Arm], truth: str | None, every_class: bool) -> None:
        self.arms, self.every_class = arms, every_class
        self._right = [is_right(arm, truth) for arm in arms]
        self.models_differ = len({os.path.realpath(arm.directory) for arm in arms}) > 1
        self.unlike = self.wrong = self.unreadable = 0
        """Pictures on which predictions differ; that were wrong; whose records are damaged."""

    def cases(self, random: Random) -> Iterator[Case]:
        """Everything that can be shown; keys alone are held."""
        found = [list(arm.results()) for arm in self.arms]
        others = {result.key: result for result in found[-1]}
        first = [result for result in found[0] if result.key in others]
        random.shuffle(first)
        for result in first:
            both = [result] if len(self.arms) == 1 else [result, others[result.key]]
            try:
                records = [one.record() for one in both]
                yield from self._of_picture(both, records)
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                self.unreadable += 1

    def _of_picture(self, both: list[Result], records: list[Record]) -> Iterator[Case]:
        rights = zip(self._right, both, records, strict=True)
        best = [record["predictions"][0]["label"] for record in records]
        if not all(right(one, record) for right, one, record in rights):
            self.wrong += 1
            return
        if len(set(best)) > 1 or len({record["sha256"] for record in records}) > 1:
            self.unlike += 1
            return
        labels = dict.fromkeys(
            entry["target"]["label"] for entry in records[0]["explanations"]
            if entry["target"]["against"] is None
        ) if self.every_class else {best[0]: None}  # fmt: skip
        for label in labels:
            places = [
                _place(record, arm.method, label)
                for record, arm in zip(records, self.arms, strict=True)
            ]
            shown = [Shown(one, record, place) for one, record, place
                     in zip(both, records, places, strict=True) if place is not None]  # fmt: skip
            if len(shown) == len(self.arms):
                yield Case(label, tuple(shown))


def _place(record: Record, method: str, label: str) -> int | None:
    """The method's first map of a class that has a hottest place."""
    for number, entry in enumerate(record["explanations"]):
        target, status = entry["target"], entry["cam"]["status"]
        about = entry["method"], target["label"], target["against"], status
        if about == (method, label, None, "ok"):
            return number
    return None
