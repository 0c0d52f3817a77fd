"""What runs have written, for comparing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from camcli.outputs import journal
from camcli.shard import OUTPUTS


def outputs(out: Path) -> dict[str, bytes]:
    """Every output of a run by its name, relative to its directory."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kind in OUTPUTS
        for path in (out / kind).rglob("*")
        if path.is_file()
    }


def journalled(path: Path) -> list[dict[str, Any]]:
    """Every line of a journal that was committed."""
    return [json.loads(raw) for _, raw in journal.committed(path)]
