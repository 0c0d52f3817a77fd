"""The page as one file: no network, no script but its own, data that cannot become markup."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from typing import Any


def html(study: str, protocol: str, items: Sequence[dict[str, Any]]) -> str:
    """The page of a study. `items` is all that it says of what is shown."""
    assets = files("camcli.study") / "assets"
    style, script, body = (
        (assets / name).read_text(encoding="utf-8") for name in ("page.css", "page.js", "page.html")
    )
    data = {"study": study, "protocol": protocol, "items": list(items)}
    parts = {
        "@POLICY@": _policy(script, style),
        "@STYLE@": style,
        "@SCRIPT@": script,
        "@DATA@": json.dumps(data, ensure_ascii=True).replace("<", "\\u003c"),
    }
    for name, content in parts.items():
        body = body.replace(name, content, 1)
    return body


def _policy(script: str, style: str) -> str:
    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    return (f"default-src 'none'; img-src data:; script-src {digest(script)}; "
            f"style-src {digest(style)}; base-uri 'none'; form-action 'none'")  # fmt: skip
