"""The README's commands run, in order, as a reader would run them; what exists is in it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from camcli.cam import methods as _registered
from camcli.cli.app import app
from camcli.errors import CamcliError
from camcli.registry import METHODS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a reader's: pictures in images/, the configurations beside them."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "samples", folder / "images")
    shutil.copytree(ROOT / "configs", folder / "configs")
    return folder


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", command],
        cwd=folder,
        env=os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_every_command_in_the_readme_runs(folder: Path) -> None:
    assert len(COMMANDS) >= 10
    for command in COMMANDS:
        done = run(command, folder)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    assert len(list((folder / "out" / "overlays").iterdir())) == 5 * 2 * 3


@pytest.mark.slow
def test_the_tree_in_the_readme_is_what_a_run_writes(folder: Path) -> None:
    if not (folder / "out").exists():
        assert run(COMMANDS[0], folder).returncode == 0
    named = re.findall(r"^(out/\S+)", README, re.MULTILINE)
    assert len(named) == 5
    for name in named:
        assert (folder / name).is_file(), name


def test_the_python_in_the_readme_runs(folder: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    python = [sys.executable, "-c", block]
    done = subprocess.run(
        python, cwd=folder, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"espresso \d+\.\d+ \(7, 7\) True\n", done.stdout)


def test_every_command_and_every_method_is_in_the_readme() -> None:
    names = [command.name or "" for command in app.registered_commands]
    names += [group.name or "" for group in app.registered_groups]
    assert {"explain", "render", "doctor", "config"} <= set(names)
    for name in names:
        assert f"camcli {name}" in README, name
    assert _registered.__name__.endswith("methods")
    for method in METHODS:
        assert f"`{method}`" in README, method


def test_every_exit_status_is_in_the_readme() -> None:
    def family(error: type[CamcliError]) -> set[int]:
        return {error.exit_status}.union(*(family(child) for child in error.__subclasses__()))

    for status in family(CamcliError) | {0, 3}:
        assert re.search(rf"^\| {status} \|", README, re.MULTILINE), status


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250
