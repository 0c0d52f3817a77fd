"""A user's installation: not editable, in an environment of its own, offline, elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NO_NETWORK = ["unshare", "--map-root-user", "--net"]


def isolated() -> list[str]:
    """The prefix that takes the network away, where the system lets us."""
    if shutil.which("unshare") is None:
        return []
    return NO_NETWORK if subprocess.run([*NO_NETWORK, "true"], check=False).returncode == 0 else []


@pytest.mark.slow
def test_an_installed_camcli_explains_a_folder_offline_from_another_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "demo-output")
    shutil.copytree(ROOT, source, ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    binaries = tmp_path / "env" / "bin"
    constraints = source / "constraints.txt"
    install = [binaries / "pip", "install", "--quiet", "-c", constraints, source]
    subprocess.run(install, check=True, timeout=900)
    shutil.rmtree(source)

    folder = tmp_path / "elsewhere"
    shutil.copytree(ROOT / "samples", folder / "images")
    environment = {"PATH": f"{binaries}:{os.environ['PATH']}", "HOME": str(tmp_path / "home")}
    command = [*isolated(), "camcli", "explain", "images/", "--method", "hirescam"]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"5 of 5 HiResCAM maps" in done.stderr
    assert len(list((folder / "camcli-output" / "overlays").glob("*.jpg"))) == 5

    schema = "import camcli.outputs, json; print(json.dumps(camcli.outputs.schema()))"
    python = [binaries / "python", "-c", schema]
    printed = subprocess.run(python, cwd=folder, capture_output=True, check=True).stdout
    assert json.loads(printed)["title"].startswith("camcli record")
    packaged = subprocess.run(
        [binaries / "pip", "show", "--files", "camcli"], capture_output=True, text=True, check=True
    ).stdout
    assert "camcli/outputs/schema.json" in packaged
    assert "camcli/py.typed" in packaged
    assert "tests/" not in packaged
