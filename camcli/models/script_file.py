"""What a TorchScript file tells before it is loaded, and loading it. Nothing is unpickled here."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from camcli.errors import ModelError

# TorchScript may write files, in forward and while it is loaded. A heuristic, not a sandbox.
_WRITING = re.compile(rb"""[."'](save|from_file|write_file)\b""")
_UNKNOWN = re.compile(r"Unknown builtin op: (\S+?)\.?\s*$", re.MULTILINE)


def script_facts(path: Path) -> tuple[tuple[int, int] | None, dict[str, bytes]]:
    """The size (width, height) of the pictures a file was traced with, and what came with it.

    `_extra_files` of torch.jit.save by name: labels, or how pictures are prepared.
    """
    with _opened(path) as file:
        members = [name for name in file.namelist() if name.split("/")[1:2] == ["extra"]]
        extra = {name.split("/", 2)[2]: file.read(name) for name in members}
    shape = traced_shape(path)
    return (shape[3], shape[2]) if shape else None, extra


def traced_shape(path: Path) -> tuple[int, ...] | None:
    """The shape (N, 3, H, W) of the example that a file was traced with; None if scripted."""
    with _opened(path) as file:
        names = [name for name in file.namelist() if name.endswith("/traced_inputs.pkl")]
        content = file.read(names[0]) if names else b""
    numbers: list[int] = []
    for operation, argument, _ in pickletools.genops(content) if content else ():
        if operation.name == "MARK":
            numbers = []
        elif isinstance(argument, int) and "INT" in operation.name:
            numbers.append(argument)
        elif operation.name == "TUPLE" and len(numbers) == 4:
            return tuple(numbers)
    return None


def refuse_writing(path: Path) -> None:
    """A ModelError where the file's code calls what writes files."""
    with _opened(path) as file:
        for name in file.namelist():
            if "/code/" in name and name.endswith(".py"):
                found = _WRITING.search(file.read(name))
                if found:
                    raise ModelError(
                        f"'{path}' holds code that can write files ({found[1].decode()} in "
                        f"{name.split('/code/')[1]}); if you trust where it comes from, "
                        "give --trust-model"
                    )


def load(path: Path, device: torch.device) -> Any:
    """The module in a TorchScript file, on a device; a ModelError that says why not."""
    try:
        with warnings.catch_warnings():  # that torch.jit is deprecated is nothing to users of files
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError) as error:
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            raise ModelError(
                f"'{path}' needs the operator {unknown[1]}, which is not there: it comes with a "
                "compiled torchvision or a library of custom operators"
            ) from error
        raise ModelError(
            f"'{path}' is no TorchScript file that torch can read ({_reason(error)}); "
            "save it again with torch.jit.save"
        ) from error


def _opened(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(
            f"'{path}' is no TorchScript file that can be read ({_reason(error)}); if it was "
            "fetched with git, run git lfs pull"
        ) from error


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
