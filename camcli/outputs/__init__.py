"""What a run writes, and drawing from what was written."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def schema() -> dict[str, Any]:
    """The JSON schema of a record."""
    content: dict[str, Any] = json.loads(files(__package__).joinpath("schema.json").read_text())
    return content
