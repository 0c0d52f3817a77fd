"""What cron, containers and careless scripts start programs with: -q says nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import SMALL, Ended, committed, outputs

POOR = {"TERM": None, "HOME": None, "USER": None, "LOGNAME": None, "LANG": "C", "LC_ALL": "C"}


def test_quiet_runs_say_nothing_in_a_poor_environment(
    images: Path, whole: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for _ in range(2):  # with something to do, and without
        assert explain(images, out, "-q", environment=POOR) == Ended(0, "", "")
    assert outputs(out) == whole


def test_quiet_runs_say_nothing_where_home_may_not_be_written(
    images: Path, whole: dict[str, bytes], explain: Callable, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o555)
    places = {"HOME": str(home), "XDG_CACHE_HOME": None, "TORCH_HOME": None}
    ended = explain(images, tmp_path / "out", "-q", environment=places, powerless=True)
    assert ended == Ended(0, "", "")
    assert outputs(tmp_path / "out") == whole


def test_names_that_the_locale_cannot_print_stop_nothing(
    images: Path, explain: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "Ölbilder"
    folder.mkdir()
    (folder / "Kätzchen\n.png").write_bytes((images / "00.png").read_bytes())
    (folder / "ÿ.png").write_bytes(b"no picture")
    ended = explain(folder, tmp_path / "out", "-v", environment=POOR)
    assert ended.status == 3
    assert "Traceback" not in ended.stderr
    assert sorted(committed(tmp_path / "out")) == ["Kätzchen\n.png", "ÿ.png"]


def test_failures_that_are_known_are_not_repeated(
    images: Path, explain: Callable, tmp_path: Path
) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    (folder / "a.png").write_bytes((images / "00.png").read_bytes())
    (folder / "b.png").write_bytes(b"no picture")
    assert explain(folder, out, "-q", environment=POOR).status == 3
    assert explain(folder, out, "-q", environment=POOR) == Ended(0, "", "")
    ended = explain(folder, out, environment=POOR)
    assert "1 failed in an earlier run (--retry-failed tries again)" in ended.stderr


def camcli(shell: str, *arguments: object) -> subprocess.CompletedProcess[bytes]:
    """A process of its own, as a shell line starts it; `$@` is the command."""
    command = [sys.executable, "-m", "camcli", *map(str, arguments)]
    line = ["bash", "-c", shell, "bash", *command]
    return subprocess.run(line, capture_output=True, timeout=300, check=False)


def test_a_working_directory_that_is_gone_and_streams_that_are_closed_stop_nothing(
    images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """And no file that a run opens takes the number of a stream."""
    gone, out = tmp_path / "gone", tmp_path / "out"
    gone.mkdir()
    explain = ("explain", images, "-o", out, *SMALL, "-q")
    there = f"cd {gone} && rmdir {gone} && "
    done = camcli(there + 'exec "$@" <&- >&- 2>&-', *explain)
    assert done.returncode == 0, done
    assert outputs(out) == whole
    gone.mkdir()
    done = camcli(there + 'exec "$@"', *explain)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    gone.mkdir()
    done = camcli(there + 'exec "$@"', "explain", "images", "-o", out, "-q")
    assert done.returncode == 2
    assert done.stderr.startswith(b"camcli: no file or folder 'images'")


@pytest.mark.parametrize("command", [["methods"], ["config", "show"], ["explain", "-n", "IMAGES"]])
def test_a_full_disk_behind_stdout_is_one_sentence(
    command: list[str], images: Path, tmp_path: Path
) -> None:
    arguments = [images if part == "IMAGES" else part for part in command]
    done = camcli('"$@" > /dev/full', *arguments)
    assert done.returncode == 1
    assert done.stderr.decode() == (
        "camcli: stdout cannot be used (No space left on device); what was done so far is kept\n"
    )


@pytest.mark.parametrize(
    "log", [pytest.param(log, marks=pytest.mark.slow) for log in ("/dev/full", "a pipe")]
)
def test_a_log_that_cannot_be_written_stops_nothing(
    log: str, images: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    into = "2> /dev/full" if log == "/dev/full" else "2> >(head -1)"
    done = camcli(f'"$@" {into}', "explain", images, "-o", out, *SMALL, "-v")
    assert done.returncode == 0, done
    assert outputs(out) == whole
