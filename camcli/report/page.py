"""index.html: the page's own files and what is known of the run, in one file without links to
anything but the blocks of data, the overlays and the pictures.
"""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
from collections.abc import Iterable, Iterator
from typing import Any

from camcli.outputs.derived import MARK
from camcli.report.blocks import encoded

"""By which a page is known to be camcli's."""
_SCRIPTS = ("data.js", "drawing.js", "charts.js", "gallery.js", "detail.js", "page.js")


def page(title: str, run: dict[str, Any], blocks: Iterable[tuple[str, str]]) -> Iterator[bytes]:
    """The page, piece by piece. `blocks` are the names and JSON of the data that it embeds.

    Nothing runs but the page's own scripts and data files beside it, whatever a name smuggles in.
    """
    files = importlib.resources.files(__package__) / "assets"
    style, *scripts = [
        (files / name).read_text(encoding="utf-8") for name in ("page.css", *_SCRIPTS)
    ]
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; "
        "img-src 'self' file: data: blob:; "
        f"style-src {_hash(style)}; "
        f"script-src 'self' file: {' '.join(_hash(script) for script in scripts)}"
    )
    body = (files / "page.html").read_text(encoding="utf-8")
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"{MARK.decode()}\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)}</title>\n'
        f"<style>{style}</style>\n</head>\n<body>\n{body}"
    ).encode()
    for name, text in (("run", encoded(run)), *blocks):
        yield f'<script type="application/json" id="{name}">{text}</script>\n'.encode()
    for script in scripts:
        yield f"<script>{script}</script>\n".encode()
    yield b"</body>\n</html>\n"


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
