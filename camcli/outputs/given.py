"""Which class each picture was given, by people: what makes a prediction right or wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from camcli.cam.targets import Classes, NoTargetError, given_class
from camcli.errors import UsageError
from camcli.images.archives import label_of
from camcli.outputs.record import Record
from camcli.outputs.results import Result
from camcli.records import ImageRef

Given = Callable[[Result, Record], int | None]


def given_classes(asked: str | None, run: dict[str, Any]) -> tuple[Given, str] | None:
    """The rule that tells each picture's given class, None where it has none, and its origin.

    `asked` is `folder`, `label` or `csv:FILE`, as `explain --target` reads them. Without it the
    run's own targets count, where it explained given classes; None where it did not.
    """
    if asked is None:
        target = run["request"]["target"]
        return (_explained, target) if _gives(target) else None
    if not _gives(asked):
        raise UsageError(f"--truth must be folder, label or csv:FILE, not '{asked}'")
    labels = tuple(run["labels"])
    rule = given_class(asked, Classes(len(labels), labels), "--truth")

    def given(result: Result, record: Record) -> int | None:
        # A table may name pictures as they were given to the run.
        for path in (result.source, record["path"]):
            try:
                return rule(ImageRef(path, result.key, label_of(path)))
            except NoTargetError:
                continue
        return None

    return given, asked


def _gives(target: str) -> bool:
    return target in ("folder", "label") or target.startswith("csv:")


def _explained(result: Result, record: Record) -> int | None:
    index: int | None = record["explanations"][0]["target"]["index"]
    return index
