"""The page's data: named blocks of JSON, of which each is a script that any browser may load.

A page that is opened from a disk may load scripts, and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from camcli.outputs.derived import DATA
from camcli.outputs.files import writing


def encoded(content: Any) -> str:
    """JSON that is inert in a script and in HTML, whatever the names of files and classes hold."""
    text = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def numbers(values: Sequence[float] | npt.NDArray[Any], kind: str) -> str:
    """An array of numpy's `kind`, least byte first, as text."""
    dtype = np.dtype(kind).newbyteorder("<")
    return base64.b64encode(np.asarray(values, dtype).tobytes()).decode("ascii")


class Blocks:
    """Writes blocks into a folder of their own, which gets its name from what they hold."""

    def __init__(self, folder: Path) -> None:
        """`folder` is the temporary one."""
        self.folder = folder
        self.names: list[str] = []
        self._digest = hashlib.sha256()

    def write(self, name: str, content: Any) -> None:
        """Write one block, to be received under its name."""
        text = encoded(content)
        self._digest.update(f"{name}\n{text}\n".encode())
        with writing(self.folder.parent), open(self._path(name), "w", encoding="ascii") as file:
            file.write(f'receive("{name}",{text});\n')
        self.names.append(name)

    def texts(self) -> Iterator[tuple[str, str]]:
        """The name and the JSON of every block, one at a time."""
        for name in self.names:
            script = self._path(name).read_text(encoding="ascii")
            yield name, script.removeprefix(f'receive("{name}",').removesuffix(");\n")

    def moved(self) -> str:
        """Give the folder its lasting name, of what it holds, and return that."""
        place = self.folder.with_name(f"{DATA}{self._digest.hexdigest()[:16]}")
        if place.exists():  # an earlier page, which is in use until there is a new one
            place = place.with_name(f"{place.name}-again")
            shutil.rmtree(place, ignore_errors=True)
        with writing(self.folder.parent):
            self.folder.rename(place)
        return place.name

    def remove(self) -> None:
        """Remove the temporary folder, where it is still there."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.js"
