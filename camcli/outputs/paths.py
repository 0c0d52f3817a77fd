"""Where each output goes. Every path is inside the output directory."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from camcli.images.discover import COMPARISON
from camcli.outputs.render import EXTENSION, OverlayFormat
from camcli.records import Target

_LONGEST_SUFFIX = 72
_LONGEST_LABEL = 32


def json_path(key: str) -> Path:
    """`json/<key>.json`, relative to the output directory."""
    return Path("json", key + ".json")


def npz_path(key: str) -> Path:
    """`maps/<key>.npz`"""
    return Path("maps", key + ".npz")


def comparison_path(key: str) -> Path:
    """`<key>.compare.png`"""
    return Path(key + COMPARISON)


def overlay_path(
    key: str,
    method: str,
    layer: str | None,
    target: Target,
    names: Sequence[str],
    overlay_format: OverlayFormat,
) -> Path:
    """`overlays/<key>.<method>[.<layer>].<target>.jpg`; the layer where a run has several.

    `names` are the labels of the classes. A suffix too long for the file system is
    cut and a hash of the whole is added.
    """
    parts = [method, *([_slug(layer)] if layer else []), _target(target, names)]
    suffix = ".".join(parts)
    if len(suffix) > _LONGEST_SUFFIX:
        mark = hashlib.sha256(suffix.encode()).hexdigest()[:10]
        suffix = f"{suffix[: _LONGEST_SUFFIX - 11]}~{mark}"
    return Path("overlays", f"{key}.{suffix}{EXTENSION[overlay_format]}")


def overlays_of(record: Any, key: str) -> set[str]:
    """The overlays that a record names, as far as they can be this input's own."""
    entries = record.get("explanations") if isinstance(record, dict) else None
    entries = entries if isinstance(entries, list) else []
    named = [entry.get("overlay") for entry in entries if isinstance(entry, dict)]
    own = f"overlays/{key}."
    return {
        name
        for name in named
        if isinstance(name, str) and name.startswith(own) and "/" not in name[len(own) :]
    }


def _target(target: Target, names: Sequence[str]) -> str:
    """`282_tiger_cat`, `282_tiger_cat-281_tabby` for a contrast, `-281_tabby` for its absence."""

    def name(index: int) -> str:
        slug = _slug(names[index])[:_LONGEST_LABEL]
        return str(index) if slug in ("", str(index)) else f"{index}_{slug}"

    plus = "" if target.index is None else name(target.index)
    return plus if target.against is None else f"{plus}-{name(target.against)}"


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "_", text).strip("_.")
