"""A report read back, as its page reads it."""

from __future__ import annotations

import base64
import html
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = {"status": "u1", "confidence": "<f4", "completeness": "<f4", "hot": "<f4",
          "disagreement": "<f4", "width": "<u4", "height": "<u4"}  # fmt: skip


@dataclass(frozen=True)
class Page:
    run: dict[str, Any]
    columns: list[dict[str, Any]]
    parts: list[dict[str, Any]]

    @property
    def keys(self) -> list[str]:
        return [key for chunk in self.columns for key in chunk["keys"]]

    @property
    def rows(self) -> list[list[Any]]:
        return [row for part in self.parts for row in part["rows"]]

    @property
    def maps(self) -> list[float]:
        return [value for part in self.parts for value in numbers(part["maps"], "<f4")]

    @property
    def failures(self) -> dict[int, list[str]]:
        return {
            int(place) + self.run["chunk"] * number: failure
            for number, chunk in enumerate(self.columns)
            for place, failure in chunk["failures"].items()
        }

    def column(self, name: str) -> list[Any]:
        kind = _KINDS.get(name, "<i4")
        return [value for chunk in self.columns for value in numbers(chunk[name], kind)]


def numbers(text: str, kind: str) -> list[Any]:
    return np.frombuffer(base64.b64decode(text), kind).tolist()


def read(out: Path) -> Page:
    """The data of a report, from its scripts or from the page itself."""
    text = (out / "report" / "index.html").read_text(encoding="utf-8")
    inline = re.findall(r'<script type="application/json" id="([^"]+)">(.*?)</script>', text)
    blocks = {html.unescape(name): json.loads(content) for name, content in inline}
    run = blocks.pop("run")
    if run["data"]:
        for path in (out / "report" / run["data"]).iterdir():
            content = path.read_text(encoding="ascii")
            found = re.fullmatch(r'receive\("([^"]+)",(.*)\);\n', content)
            assert found, path
            blocks[found[1]] = json.loads(found[2])

    def numbered(kind: str) -> list[dict[str, Any]]:
        names = sorted((name for name in blocks if name.startswith(kind)),
                       key=lambda name: int(name.split("-")[1]))  # fmt: skip
        return [blocks[name] for name in names]

    return Page(run, numbered("columns-"), numbered("part-"))
