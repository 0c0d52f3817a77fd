"""What runs have written, for comparing."""

from __future__ import annotations

from pathlib import Path

from camcli.images.discover import OUTPUTS


def outputs(out: Path) -> dict[str, bytes]:
    """Every output of a run by its name, relative to its directory."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for kind in OUTPUTS
        for path in (out / kind).rglob("*")
        if path.is_file()
    }
