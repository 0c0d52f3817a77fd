"""The key under which an input's outputs are filed: its name, made safe for any file system."""

from __future__ import annotations

import hashlib
import os
import re

# Leaves room in a 255-byte name for method, layer, target and extension.
_LONGEST_NAME = 160
# How `safe_name` ends; a file that is really called so gets a mark of its own.
_MARKED = re.compile(r"~[0-9a-f]{10}(?:\.[^.]*)?\Z")


def joined(prefix: str, relative: str) -> str:
    """A key below another; nothing is below none."""
    return f"{prefix}/{relative}" if prefix else relative


def normalised(path: str) -> str:
    """The path as given, made relative and kept inside the output: no root, no `..`."""
    parts = os.path.normpath(path).split(os.sep)
    return "/".join("_up" if part == ".." else part for part in parts if part)


def of_member(name: str) -> str:
    """A member's name; one that leads out of the archive is marked, for one may be called so."""
    inside = normalised(name)
    return inside if inside == name else f"{inside}~{digest(name).hex()[:8]}"


def safe(key: str) -> str:
    """A key every file system and JSON can hold; whatever is changed is marked with a hash."""
    return "/".join(safe_name(name) for name in key.split("/"))


def is_plain(name: str) -> bool:
    """Whether a name can stand in a key as it is, without a closer look."""
    return name.isascii() and len(name) <= _LONGEST_NAME and "~" not in name


def safe_name(name: str) -> str:
    """The same for one name, of a file or a folder."""
    if is_plain(name):
        return name
    raw = os.fsencode(name)
    text = raw.decode("utf-8", "replace")
    plain = os.fsencode(text) == raw and len(raw) <= _LONGEST_NAME
    if plain and not _MARKED.search(name):
        return name
    mark = "~" + hashlib.sha256(raw).hexdigest()[:10]
    stem, extension = os.path.splitext(text)
    if len(os.fsencode(extension)) > 10:
        stem, extension = text, ""
    kept = os.fsencode(stem)[: _LONGEST_NAME - len(mark) - len(os.fsencode(extension))]
    return kept.decode("utf-8", "ignore") + mark + extension


def digest(text: str) -> bytes:
    """What stands for a path or a key where many are remembered."""
    return hashlib.blake2b(os.fsencode(text), digest_size=16).digest()
