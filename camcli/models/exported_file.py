"""What a torch.export file would make torch do is checked before it is loaded."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from camcli.errors import ModelError
from camcli.models.files import damaged, repeated

# torch evaluates sizes with sympy, which evaluates Python: only what sizes are made of may pass.
_EXPRESSION = re.compile(
    r"(?:'\w+'|\d++(?:\.\d++)?+(?:e-?\d++)?+|[-+*/%(),=<>!&|~ ]|"
    r"\b(?:Symbol|Integer|Rational|Float|Mul|Add|Pow|Mod|Min|Max|Abs|Eq|Ne|Equality|Unequality|And|Or|Not|floor|ceiling|true|false|True|"
    r"False|oo|int_oo|positive|nonnegative|negative|integer|real|"
    r"(?:Strict)?(?:Greater|Less)Than|[GL][te]|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|"
    r"CeilToInt|FloorToInt|CeilDiv|[LR]Shift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|"
    r"IsNonOverlappingAndDenseIndicator|TruncTo(?:Float|Int)|RoundToInt|RoundDecimal|ToFloat|"
    r"Identity|z?[suf]++\d++)\b)*+"
)
# Any attribute of torch could be named as an operator, os.system among them.
_OPERATOR = re.compile(
    r"torch\.ops\.\w+\.(?!\w*(?:save|load|file|write))\w+\.\w+|torch\.ops\.higher_order\.\w+|"
    r"torch\.(?:_sym_sqrt|sym_\w+)|math\.\w+|"
    r"_operator\.(?:add|sub|mul|(?:floor|true)div|mod|pow|neg|pos|eq|ne|[lg][te]|and_|or_|xor|not_|"
    r"[lr]shift|getitem)"
)
# Names become Python source, in which nothing but a name may stand.
_NAME = re.compile(r"[\w.\-]*")
_IMPORTING = ("default_factory_module", "__enum__")  # keys under which torch imports a module
_FREE = ("metadata", "guards_code", "as_string")  # looked up, left unused, and quoted


def load(path: Path, *, trusted: bool = False) -> torch.export.ExportedProgram:
    """The program in a file, as data where it is not `trusted`; a ModelError that says why not."""
    if not trusted:
        refuse_code(path)
    try:
        with _quiet(), _as_data(not trusted), open(path, "rb") as file:
            return torch.export.load(file)
    except Exception as error:  # whatever a damaged or newer file makes torch's readers raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not torch.cuda.is_available() and _from_gpu(path):
            raise ModelError(
                f"'{path}' was exported on a GPU, where torch wants its weights again ({reason}); "
                "export it on the CPU, or run camcli where there is one"
            ) from error
        raise ModelError(
            f"'{path}' cannot be loaded by torch {torch.__version__} ({reason}); "
            "export it again with this version, or install the one that wrote it"
        ) from error


def _from_gpu(path: Path) -> bool:
    """Whether the weights were on a GPU, which torch looks for when it loads them."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        configs = [name for name in archive.namelist() if name.endswith("weights_config.json")]
        return any(b'"cuda"' in archive.read(name) for name in configs)


def unlifted(program: torch.export.ExportedProgram) -> torch.fx.GraphModule:
    """The program's graph with its weights, without the checks that a file may write as code."""
    program._guards_code = []
    with _quiet():
        try:
            return program.module(check_guards=False)
        except TypeError:  # torch before 2.9 makes no such checks
            return program.module()


def refuse_code(path: Path) -> None:
    """A ModelError where loading or running the file could run what is no tensor operator."""
    try:
        text = next(_suspects(path), None)
    except Exception as error:  # what is built otherwise than torch builds it
        raise damaged(str(path)) from error
    if text is not None:
        raise ModelError(
            f"'{path}' holds what may run as code ({text[:60]!r}); if you trust where it comes "
            "from, give --trust-model"
        )


def _suspects(path: Path) -> Iterator[str]:
    with zipfile.ZipFile(path) as archive:
        yield from repeated(archive)
        for name in archive.namelist():
            lower = f"/{name.lower()}"
            if "/aotinductor/" in lower:  # compiled code beside the graph, which torch would load
                yield name
            if "/extra/" in lower or lower.startswith("/extra_files/"):
                continue
            if "/models/" not in lower and not lower.endswith(".json"):
                continue
            try:
                content = json.loads(archive.read(name))
            except ValueError:
                yield name
                continue
            if not isinstance(content, dict):
                yield name
            elif "graph_module" in content:
                yield from _code_in(content["graph_module"])
                yield from (k for k in content.get("range_constraints", {}) if not _expression(k))
            else:
                yield from _objects_in(content)


def _code_in(value: Any, key: str = "") -> Iterator[str]:
    """Every string in a serialized graph that could become code."""
    if isinstance(value, dict):
        for name, part in value.items():
            if name in _IMPORTING or not _NAME.fullmatch(name):
                yield name
            elif name not in _FREE:
                yield from _code_in(part, name)
    elif isinstance(value, list):
        for part in value:
            yield from _code_in(part, key)
    elif isinstance(value, str) and not _harmless(value, key):
        nested = _parsed(value)
        if isinstance(nested, dict | list):  # how answers are nested is JSON within JSON
            yield from _code_in(nested, key)
        else:
            yield value


def _objects_in(config: Any) -> Iterator[str]:
    """Constants that are no tensors: objects, which torch unpickles whatever they are."""
    for entry in config.get("config", {}).values():
        stored = str(entry.get("path_name") if isinstance(entry, dict) else entry)
        if not stored.startswith(("weight_", "tensor_")):
            yield stored


def _harmless(text: str, key: str) -> bool:
    if key == "expr_str":
        return _expression(text)
    if key == "target":
        return _OPERATOR.fullmatch(text) is not None
    return _NAME.fullmatch(text) is not None


def _expression(text: str) -> bool:
    return _EXPRESSION.fullmatch(text) is not None


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


@contextmanager
def _as_data(enforced: bool) -> Iterator[None]:
    """Nothing but tensors is unpickled, not even where torch asks to unpickle anything."""
    chosen = {"TORCH_FORCE_WEIGHTS_ONLY_LOAD": "1" if enforced else None,
              "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": None}  # fmt: skip
    before = {name: os.environ.get(name) for name in chosen}
    _set(chosen)
    try:
        yield
    finally:
        _set(before)


def _set(variables: dict[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _quiet() -> Iterator[None]:
    """Without torch's warnings about the format, and its log of errors that are raised as well."""
    loggers = [logging.getLogger(name) for name in ("torch.export", "torch._export")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
