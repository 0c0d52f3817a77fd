"""`--labels`: the names of a model's classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from camcli.cam.targets import Classes
from camcli.errors import UsageError


def classes_of(
    count: int, labels: str | None, known: tuple[str, ...] | None, origin: str
) -> tuple[Classes, str]:
    """The classes of a model, and where their labels come from.

    `labels` is the user's word (`imagenet1k`, a file, or None); `known` are the labels that came
    with the weights, from `origin`. A single logit has the two classes 0 and 1.
    """
    count = 2 if count == 1 else count
    if labels is None:
        if known is not None and len(known) == count:
            return Classes(count, known), origin
        return Classes(count), "none"
    names = imagenet_labels() if labels == "imagenet1k" else read_labels(Path(labels))
    if len(names) != count:
        raise UsageError(f"--labels {labels} names {len(names)} classes, but the model has {count}")
    return Classes(count, names), labels


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 ImageNet class names that torchvision's weights carry."""
    from camcli.models.fallback import import_torchvision

    import_torchvision()
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a file: one a line (.txt), a list or {index: label} (.json), or a .csv.

    A CSV has a label in its last column and, where it has a header naming `index`, is sorted by
    that column.
    """
    try:
        return parse_labels(path.read_text(encoding="utf-8-sig"), path.suffix)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"--labels {path} cannot be read ({error}); give imagenet1k, a .txt with one label a "
            "line, a .json list or {index: label}, or a .csv"
        ) from error


def parse_labels(text: str, suffix: str) -> tuple[str, ...]:
    """Labels from the content of such a file; ValueError or KeyError where it is not one."""
    if suffix.lower() == ".json":
        return _from_json(json.loads(text))
    if suffix.lower() == ".csv":
        return _from_csv(text)
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def _from_json(value: Any) -> tuple[str, ...]:
    if isinstance(value, dict):
        return tuple(str(value[str(index)]) for index in range(len(value)))
    if isinstance(value, list):
        return tuple(str(label) for label in value)
    raise ValueError(f"neither a list nor an object but {type(value).__name__}")


def _from_csv(text: str) -> tuple[str, ...]:
    rows = [row for row in csv.reader(text.splitlines()) if row]
    header = [name.strip().lower() for name in rows[0]] if rows else []
    if "index" not in header:
        return tuple(row[-1].strip() for row in rows)
    at = header.index("index")
    return tuple(row[-1].strip() for row in sorted(rows[1:], key=lambda row: int(row[at])))
