"""Where the outputs of one input are: in files of their own, or in a tar.

In a tar they lie beside each other as `<key>.npz`, `<key>.<method>[.<layer>].<target>.jpg` and
`<key>.json`. WebDataset takes what is in front of the first dot of a file's name for its sample, so
there dots in the last part of a key are written `%2E`, and percent signs `%25`, as in
`cats/a%2Epng.json`; `urllib.parse.unquote` gives the key back.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from camcli.images import archives

TARS = "tars"
_NAME = re.compile(r"\d{6,}(-\d{3,9}-of-\d{3,9})?\.tar", re.ASCII)


@dataclass(frozen=True)
class Stored:
    """The outputs of one input, by the names that they have among files: `json/<key>.json`."""

    directory: Path
    key: str
    tar: str | None = None
    """The tar's name."""

    @classmethod
    def of_line(cls, directory: Path, line: dict[str, Any]) -> Stored:
        """Those that a journal line tells of."""
        tar = line.get("tar")
        return cls(directory, line["key"], None if tar is None else str(tar))

    @property
    def folder(self) -> str:
        """What in its tar belongs to this input, as if it were a folder."""
        return f"{TARS}/{self.tar}/{member(self.key, '')}"

    def place(self, name: str) -> str:
        """Where an output is, relative to the directory; a tar is like a folder there."""
        return name if self.tar is None else f"{TARS}/{self.tar}/{member(self.key, name)}"

    def read(self, name: str) -> bytes:
        """An output's content; OSError, or ValueError, where it is missing or damaged."""
        if self.tar is None:
            return (self.directory / name).read_bytes()
        try:
            return archives.read(self._archive(), member(self.key, name), sys.maxsize)
        except archives.ArchiveError as error:
            raise OSError(errno.EIO, str(error)) from error

    def has(self, name: str) -> bool:
        """Whether there is such an output."""
        if self.tar is None:
            return os.path.lexists(self.directory / name)
        return member(self.key, name) in self.members()

    def members(self) -> list[str]:
        """The names of everything in the tar that is this input's; raises as `read` does, also
        where only other inputs' members are damaged.
        """
        return samples(self._archive()).get(member(self.key, ""), [])

    def _archive(self) -> str:
        assert self.tar is not None
        if not is_tar(self.tar):
            raise ValueError(f"'{self.tar}' is no tar of camcli's")
        return os.path.join(self.directory, TARS, self.tar)


def is_tar(name: str) -> bool:
    """Whether camcli calls its tars so."""
    return _NAME.fullmatch(name) is not None


def samples(path: str) -> dict[str, list[str]]:
    """The members of a tar by what they have in front of the first dot, in order. OSError where
    it is damaged, or missing.
    """
    found = os.stat(path)
    return _samples(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=1)
def _samples(path: str, size: int, mtime_ns: int) -> dict[str, list[str]]:
    try:
        content = archives.opened(path)
        if content.fault:
            raise archives.ArchiveError(content.fault)
    except archives.ArchiveError as error:
        raise OSError(errno.EIO, str(error)) from error
    grouped: dict[str, list[str]] = {}
    for name in content.members:
        folder, slash, base = name.rpartition("/")
        grouped.setdefault(folder + slash + base.partition(".")[0], []).append(name)
    return grouped


def member(key: str, name: str) -> str:
    """What an output is called in a tar; without a name, how all of the key's are."""
    folder, slash, base = key.rpartition("/")
    suffix = name.partition("/")[2].removeprefix(key)
    return folder + slash + base.replace("%", "%25").replace(".", "%2E") + suffix
