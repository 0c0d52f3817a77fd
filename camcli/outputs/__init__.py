"""What a run writes, and drawing from what was written."""

from __future__ import annotations

import json
from typing import Any


def schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    import importlib.resources  # which --help does not wait for

    file = importlib.resources.files(__package__) / "schema.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content
