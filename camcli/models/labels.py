"""`--labels`: the names of a model's classes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from camcli.cam.targets import Classes
from camcli.errors import UsageError

ASSUMED = "imagenet1k (assumed for 1,000 classes)"
_ENTRIES = ("id2label", "label_names", "labels", "classes", "categories")
_INDEX = ("index", "idx", "id", "class_index", "class_id", "class_idx")
_LABEL = ("label", "name", "class", "class_name", "label_name")


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


def named_remark(classes: Classes, origin: str) -> str:
    """The sentence that says where the names of classes come from."""
    if classes.labels is None:
        return f"The {classes.count:,} classes go by their numbers; --labels FILE names them."
    return f"Classes are named by {origin}."


def imagenet_labels() -> tuple[str, ...]:
    """The 1,000 ImageNet class names that torchvision's weights carry."""
    from camcli.models.fallback import import_torchvision

    import_torchvision()
    from torchvision.models import ResNet18_Weights

    return tuple(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def read_labels(path: Path) -> tuple[str, ...]:
    """Labels from a file: one a line (.txt), a .json or a .csv, as `parse_labels` has them."""
    try:
        return parse_labels(path.read_text(encoding="utf-8-sig"), path.suffix)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"--labels {path} cannot be read ({reason}); give imagenet1k, a .txt with one label a "
            "line, a .json list or {index: label}, or a .csv"
        ) from error


def parse_labels(text: str, suffix: str) -> tuple[str, ...]:
    """Labels from the content of such a file; ValueError where it is not one.

    A CSV may have a header, and a column of indices, which then decides the order.
    """
    if suffix.lower() == ".json":
        labels = listed(json.loads(text, object_pairs_hook=_unique))
    elif suffix.lower() == ".csv":
        labels = _from_csv(text)
    else:
        labels = tuple(line.strip() for line in text.splitlines() if line.strip())
    if not labels:
        raise ValueError("it is empty")
    return labels


def listed(value: Any) -> tuple[str, ...]:
    """Labels by index, from a list, {index: label}, {label: index}, or an object with one of these.

    A label that is a list itself is its last entry: {"0": ["n01440764", "tench"]}.
    """
    if isinstance(value, list | tuple):
        return tuple(_label(entry) for entry in value)
    if not isinstance(value, dict):
        raise ValueError(f"neither a list nor an object but {type(value).__name__}")
    inner = [value[name] for name in _ENTRIES if isinstance(value.get(name), dict | list)]
    if inner:
        return listed(inner[0])
    if all(type(index) is int for index in value.values()):
        return _in_order((index, str(label)) for label, index in value.items())
    return _in_order((_index(index), _label(entry)) for index, entry in value.items())


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; Python would keep the last of entries of the same name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{next(n for n in names if names.count(n) > 1)}' is there twice")
    return found


def _from_csv(text: str) -> tuple[str, ...]:
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines()) if any(row)]
    if not rows:
        return ()
    header = [name.lower() for name in rows[0]]
    at = next((k for k, name in enumerate(header) if name in _INDEX), None)
    column = next((k for k, name in enumerate(header) if name in _LABEL), None)
    if at is not None or column is not None:
        rows = rows[1:]
    elif all(len(row) > 1 and row[0].isdecimal() for row in rows):
        at = 0
    if column is None:
        column = max((k for k in range(len(header)) if k != at), default=0)
    for row in rows:
        if len(row) <= max(column, at or 0):
            raise ValueError(f"a row has no label: {','.join(row)}")
    if at is None:
        return tuple(row[column] for row in rows)
    return _in_order((_index(row[at]), row[column]) for row in rows)


def _in_order(pairs: Iterable[tuple[int, str]]) -> tuple[str, ...]:
    found: dict[int, str] = {}
    for index, label in pairs:
        if index in found:
            raise ValueError(f"index {index} is there twice")
        found[index] = label
    for index in range(len(found)):
        if index not in found:
            raise ValueError(f"index {index} is missing among {len(found)}")
    return tuple(found[index] for index in range(len(found)))


def _index(value: Any) -> int:
    try:
        return int(value)
    except ValueError:
        raise ValueError(f"'{value}' is no index") from None


def _label(value: Any) -> str:
    if isinstance(value, list | tuple) and value:
        value = value[-1]
    if not isinstance(value, str | int):
        raise ValueError(f"{json.dumps(value)} is no label")
    return str(value).strip()
