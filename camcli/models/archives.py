"""Files that hold their own graph: TorchScript and torch.export."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camcli.errors import ModelError, UsageError
from camcli.models import files
from camcli.records import ModelRequest
from camcli.registry import source

if TYPE_CHECKING:
    from camcli.models.loaded import LoadedModel

_LABELS = ("labels.txt", "labels.json", "labels.csv")
_RECIPE = "preprocessing.json"


@source(
    name="archive",
    opens=lambda name: (
        files.names_file(name) and files.kind_of(name) in ("torchscript", "exported")
    ),
)
def load(request: ModelRequest) -> LoadedModel:
    """The graph as it was saved, with the labels and preprocessing that were saved beside it."""
    from camcli.models.assembly import assembled, prepared_remark, recipe_of
    from camcli.models.labels import ASSUMED, imagenet_labels, named_remark
    from camcli.models.opening import find_device
    from camcli.models.weights import file_sha256

    path = Path(request.name)
    if request.weights != "DEFAULT":
        raise UsageError(f"--weights {request.weights}: {path} has its weights; leave it away")
    files.refuse_damage(request.name)
    extra = files.extra_files(request.name)
    device = find_device(request.device)
    network, size = _opened(request, path, device)
    known, origins = _stored_recipe(extra, path), [f"{_RECIPE} in {path.name}"]
    if not known:
        origins = []
    if size is not None and "size" not in known and "size" not in request.preprocessing:
        known["size"] = size
        origins.append("the size it was made with")
    recipe = recipe_of(request, known, " and ".join(origins))
    labels = _stored_labels(extra, path)
    model = assembled(
        request,
        network,
        name=os.path.basename(request.name),
        weights=str(path),
        sha256=file_sha256(path),
        recipe=recipe,
        labels=labels or (imagenet_labels(), ASSUMED),
        remarks=(prepared_remark(recipe),),
    )
    if labels is None or request.labels is not None:
        return model
    names, origin = labels
    said = named_remark(model.classes, origin)
    if model.classes.labels is None:
        said = f"{origin} names {len(names)} classes, not {model.classes.count}, and is not used."
    return replace(model, remarks=(*model.remarks, said))


def _opened(request: ModelRequest, path: Path, device: Any) -> tuple[Any, tuple[int, int] | None]:
    """The network of a file, and the size (width, height) of the pictures it was made with."""
    if files.kind_of(request.name) == "torchscript":
        from camcli.models.script_file import traced_shape
        from camcli.models.torchscript import open_script

        network = open_script(path, device, request.output, trusted=request.trust)
        shape = traced_shape(path)
        return network, (shape[3], shape[2]) if shape else None
    from camcli.models.exported import open_exported

    exported = open_exported(path, device, request.output, trusted=request.trust)
    return exported, exported.size


def _stored_recipe(extra: Mapping[str, bytes], path: Path) -> dict[str, Any]:
    """The fields of `preprocessing.json`: size, resize, mean, std, interpolation, fit."""
    if _RECIPE not in extra:
        return {}
    try:
        content = json.loads(extra[_RECIPE])
        return {name: _FIELDS[name](value) for name, value in content.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelError(
            f"{_RECIPE} in {path} cannot be used ({type(error).__name__}: {error}); it is an "
            f"object of {', '.join(_FIELDS)}"
        ) from error


def _size(value: Any) -> tuple[int, int]:
    """One side, or width and height."""
    width, height = value if isinstance(value, list) else (value, value)
    return int(width), int(height)


def _triple(value: Any) -> tuple[float, float, float]:
    one, two, three = (float(v) for v in value)
    return one, two, three


def _one_of(*choices: str) -> Any:
    def choose(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"'{value}' is none of {', '.join(choices)}")
        return str(value)

    return choose


_FIELDS = {
    "size": _size,
    "resize": int,
    "mean": _triple,
    "std": _triple,
    "interpolation": _one_of("nearest", "bilinear", "bicubic"),
    "fit": _one_of("crop", "squash", "pad"),
}


def _stored_labels(extra: Mapping[str, bytes], path: Path) -> tuple[tuple[str, ...], str] | None:
    from camcli.models.labels import parse_labels

    for name in _LABELS:
        if name in extra:
            try:
                text = extra[name].decode("utf-8-sig")
                return parse_labels(text, Path(name).suffix), f"{name} in {path.name}"
            except ValueError as error:
                raise ModelError(f"{name} in {path} cannot be read ({error})") from error
    return None
