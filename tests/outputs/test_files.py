"""Files that are whole or not there, the lock on a directory, and run.json."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from camcli.errors import LockedError, OutputError
from camcli.outputs import manifest
from camcli.outputs.files import atomic, locked


def test_a_file_appears_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "a.json"
    with atomic(path) as file:
        file.write(b"one")
        assert not path.exists()
    with atomic(path) as file:
        file.write(b"two")
        assert path.read_bytes() == b"one"
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["a.json"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), ValueError(), KeyboardInterrupt()]
)
def test_whatever_interrupts_a_write_leaves_no_trace(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.json").write_bytes(b"before")

    def interrupted() -> None:
        with atomic(tmp_path / "a.json") as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        interrupted()
    assert os.listdir(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"before"


def test_a_file_that_cannot_take_its_place_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="Is a directory"), atomic(tmp_path / "a.json") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == ["a.json"]


HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from camcli.outputs.files import locked\n"
    "with locked(Path(sys.argv[1]), 0):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that holds the directory until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_held_directory_is_refused_at_once(tmp_path: Path, holder: subprocess.Popen) -> None:
    started = time.monotonic()
    with pytest.raises(LockedError, match="another run is writing to"), locked(tmp_path / "out", 0):
        pass
    assert time.monotonic() - started < 1
    assert LockedError.exit_status == 75


def test_waiting_ends_when_the_directory_is_let_go(
    tmp_path: Path, holder: subprocess.Popen
) -> None:
    with pytest.raises(LockedError), locked(tmp_path / "out", 0.3):
        pass
    assert holder.stdin is not None
    holder.stdin.close()
    with locked(tmp_path / "out", 30):
        assert holder.wait(30) == 0


def test_a_killed_run_holds_nothing(tmp_path: Path, holder: subprocess.Popen) -> None:
    holder.kill()
    assert holder.wait(30) != 0
    with locked(tmp_path / "out", 0):
        assert (tmp_path / "out").is_dir()


def test_a_directory_that_cannot_be_made_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="choose another with -o"), locked(tmp_path / "file", 0):
        pass


def test_a_manifest_comes_back_as_json_has_it(tmp_path: Path) -> None:
    content = {"camcli_version": "0.1.0", "path": Path("/a"), "sizes": (1, 2), "name": "\udcff"}
    assert manifest.read(tmp_path) is None
    manifest.write(tmp_path, content)
    assert manifest.read(tmp_path) == manifest.plain(content)
    assert manifest.plain(content)["sizes"] == [1, 2]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000])
def test_a_manifest_that_cannot_be_read_is_an_output_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(OutputError, match=r"cannot be read .* choose another directory with -o"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("content", [[], {}, {"version": 1}, "text", None])
def test_somebody_elses_run_json_is_never_taken_for_ours(tmp_path: Path, content: object) -> None:
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(OutputError, match="is not camcli's; choose another directory with -o"):
        manifest.read(tmp_path)


def test_a_digest_depends_on_the_content_and_not_on_the_order() -> None:
    one = manifest.digest({"a": (1, 2), "b": None})
    assert one == manifest.digest({"b": None, "a": [1, 2]})
    assert one != manifest.digest({"a": (2, 1), "b": None})
    assert one == manifest.digest(manifest.plain({"a": (1, 2), "b": None}))


def test_versions_are_those_installed_and_import_nothing() -> None:
    code = (
        "import sys; from camcli.outputs import manifest; found = manifest.versions()\n"
        "assert 'torch' not in sys.modules\n"
        "import torch, numpy\n"
        "assert (found['torch'], found['numpy']) == (torch.__version__, numpy.__version__), found"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
