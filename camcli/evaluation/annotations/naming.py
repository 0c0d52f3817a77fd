"""Which annotations belong to which picture, by their names."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

Form = Callable[[str], str]
T = TypeVar("T")


def paired(keys: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """For each key of a picture, the number of the annotation of its name.

    Names are compared whole, then without the extension, then without the folders, then without
    both. A form of a name that two pictures or two annotations share matches none of them.
    """
    plain = [posixpath.normpath(name.replace(os.sep, "/")) for name in names]
    found: dict[str, int] = {}
    for form in (str, _stem, posixpath.basename, lambda name: _stem(posixpath.basename(name))):
        # An annotation may be named with the picture's extension or without.
        ours = _unique((form(key), key) for key in keys)
        theirs = _unique(
            (own, number) for number, name in enumerate(plain) for own in _forms(form, name)
        )
        for own, key in ours.items():
            if key not in found and own in theirs:
                found[key] = theirs[own]
    return found


def _forms(form: Form, name: str) -> set[str]:
    return {form(name), form(f"{name}.")} - {""}


def _stem(name: str) -> str:
    return posixpath.splitext(name)[0]


def _unique(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """What only one has."""
    found: dict[str, T] = {}
    several: set[str] = set()
    for form, owner in pairs:
        if form in found:
            several.add(form)
        found[form] = owner
    return {form: owner for form, owner in found.items() if form not in several}
