"""What runs have written, for comparing."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any
from urllib.parse import unquote

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


def unpacked(out: Path) -> dict[str, bytes]:
    """Every output of a run into tars, as the last lines of its journals say, by the names that
    it would have among files.
    """
    lines = {line["key"]: line for path in out.glob("results*.jsonl") for line in journalled(path)}
    members: dict[str, dict[str, bytes]] = {}
    for name in {line["tar"] for line in lines.values()}:
        with tarfile.open(out / "tars" / name) as tar:
            files = {info.name: tar.extractfile(info).read() for info in tar.getmembers()}
        members[name] = files
    found = {}
    for key, line in lines.items():
        for name, content in members[line["tar"]].items():
            folder, slash, base = name.rpartition("/")
            stem, _, suffix = base.partition(".")
            if unquote(folder + slash + stem) == key:
                kind = {"json": "json", "npz": "maps"}.get(suffix, "overlays")
                found[f"{kind}/{key}.{suffix}"] = content
    return found
