"""What a TorchScript file tells before it is loaded, and loading it. Nothing is unpickled here."""

from __future__ import annotations

import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from camcli.errors import ModelError
from camcli.models import files
from camcli.models.files import damaged

# TorchScript may write files, in forward and while it is loaded. A heuristic, not a sandbox.
# Between the dot and the name its parser takes spaces, line ends and comments.
_WRITING = re.compile(rb"""[."'](?:[\s\\]|#[^\n]*\n)*(save|from_file|write_file)\b""")
_UNKNOWN = re.compile(
    r"Unknown (?:builtin op: (\w+::\w+)|custom class type ([\w.]+?)\. Please)", re.MULTILINE
)
_USED = re.compile(r"\bops\.(\w+)\.(\w+)|\btorch\.(\w+)\(|\btorch\.classes\.(\w+)\.(\w+)")
_REFUSED = (
    (
        re.compile(r"^quantized::|^aten::(quantize_|dequantize)"),
        "is quantized: its activations are whole numbers (quint8), which have no gradient; "
        "export the float model",
    ),
    (
        re.compile(r"mkldnn|^mkl::|_convolution_(add_)?relu$", re.IGNORECASE),
        "was saved after torch.jit.optimize_for_inference, which has no gradient; "
        "save it again before optimize_for_inference",
    ),
    (
        re.compile(r"prepacked::|^xnnpack|^metal|^vulkan|^_?nnapi|^__backends__::", re.IGNORECASE),
        "is optimized for mobile, which has no gradient; use the original file",
    ),
)


def refusal(operator: str) -> str | None:
    """Why a graph that holds the operator `namespace::name` cannot be explained, and what can."""
    return next((sentence for kind, sentence in _REFUSED if kind.search(operator)), None)


def traced_shape(path: Path) -> tuple[int, ...] | None:
    """The shape (N, 3, H, W) of the example that a file was traced with; None if scripted."""
    with _opened(path) as file:
        names = [name for name in file.namelist() if name.endswith("/traced_inputs.pkl")]
        content = file.read(names[0]) if names else b""
    numbers: list[int] = []
    try:
        for operation, argument, _ in pickletools.genops(content) if content else ():
            if operation.name == "MARK":
                numbers = []
            elif isinstance(argument, int) and "INT" in operation.name:
                numbers.append(argument)
            elif operation.name == "TUPLE" and len(numbers) == 4:
                return tuple(numbers)
    except ValueError as error:  # no pickle
        raise damaged(str(path)) from error
    return None


def refuse_writing(path: Path) -> None:
    """A ModelError where the file's code calls what writes files, or may be other than it looks."""
    for name, code in _code(path):
        found = _WRITING.search(code)
        if found:
            raise ModelError(
                f"'{path}' holds code that can write files ({found[1].decode()} in {name}); "
                "if you trust where it comes from, give --trust-model"
            )
    with _opened(path) as file:
        twice = files.repeated(file)
    if twice:
        raise ModelError(
            f"'{path}' holds two members of one name ({twice[0]!r}), of which either may be run; "
            "if you trust where it comes from, give --trust-model"
        )


def load(path: Path, device: torch.device) -> Any:
    """The module in a TorchScript file, on a device; a ModelError that says why not."""
    try:
        with warnings.catch_warnings():  # that torch.jit is deprecated is nothing to users of files
            warnings.simplefilter("ignore")
            return torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
    except (RuntimeError, ValueError, OSError, torch.jit.Error) as error:
        used = {operator for _, code in _code(path) for operator in _operators(code)}
        reasons = filter(None, map(refusal, sorted(used)))
        for sentence in reasons:
            raise ModelError(f"{path.name} {sentence}") from error
        unknown = _UNKNOWN.search(str(error))
        if unknown:
            what = f"operator {unknown[1]}" if unknown[1] else f"class {unknown[2]}"
            raise ModelError(
                f"'{path}' needs the {what}, which is not there: it comes with a "
                "compiled torchvision or a library of custom operators"
            ) from error
        raise ModelError(
            f"'{path}' is no TorchScript file that torch can read ({_reason(error)}); "
            "save it again with torch.jit.save"
        ) from error


def _code(path: Path) -> Iterator[tuple[str, bytes]]:
    """The parts of a file's code and their names; torch finds them in any case of letters."""
    with _opened(path) as file:
        for name in file.namelist():
            place = name.lower().find("/code/")
            if place >= 0 and name.lower().endswith(".py"):
                yield name[place + len("/code/") :], file.read(name)


def _operators(code: bytes) -> Iterator[str]:
    """`namespace::name` of the operators and custom classes that code names."""
    for found in _USED.finditer(code.decode(errors="replace")):
        operator, of, aten, held, kind = found.groups()
        yield f"aten::{aten}" if aten else f"{operator or held}::{of or kind}"


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
