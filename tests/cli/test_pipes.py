"""camcli between other programs: pipes, lists, cron, signals, quiet."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

SAMPLES = Path(__file__).parents[2] / "samples"
PROCESS = f"{sys.executable} -m camcli"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Twenty-five pictures: several batches."""
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(5):
        for sample in SAMPLES.glob("*.jpg"):
            shutil.copy(sample, folder / f"{n}-{sample.name}")
    return folder


@pytest.fixture
def shell(path_to_camcli: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs a pipeline of programs: `shell("camcli explain images --json | head", folder)`."""

    def run(command: str, folder: Path) -> subprocess.CompletedProcess[bytes]:
        pipeline = ["bash", "-o", "pipefail", "-c", command]
        path = os.pathsep.join([str(path_to_camcli), os.environ["PATH"]])
        return subprocess.run(
            pipeline, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True,
            timeout=300, check=False,
        )  # fmt: skip

    return run


def maps(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (out / "maps").rglob("*.npz")}


def test_head_closes_the_pipe_and_the_run_ends_quietly_with_its_work_committed(
    images: Path, shell: Callable
) -> None:
    done = shell("camcli explain images -o out --batch-size 4 --json | head -3", images.parent)
    assert done.returncode == 0
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 3
    assert b"Traceback" not in done.stderr
    assert b"Broken pipe" not in done.stderr
    lines = (images.parent / "out" / "results.jsonl").read_bytes().splitlines()
    committed = len(lines)
    assert 3 <= committed < 25
    again = shell("camcli explain images -o out", images.parent)
    assert f"{25 - committed} explained, {committed} already done".encode() in again.stderr


def test_head_ends_a_dry_run_quietly(images: Path, shell: Callable) -> None:
    (images.parent / "many").write_bytes(b"".join(b"%d.jpg\n" % n for n in range(30_000)))
    done = shell("camcli explain --files-from many -o out --dry-run | head -1", images.parent)
    assert (done.returncode, done.stdout) == (0, b"0.jpg\n"), done.stderr
    assert b"Broken pipe" not in done.stderr


def test_find_print0_feeds_names_with_newlines(images: Path, shell: Callable) -> None:
    (images / "0-chelsea.jpg").rename(images / "new\nline.jpg")
    command = "find images -name '*line.jpg' -print0 | camcli explain -0 --files-from - -o out"
    done = shell(command, images.parent)
    assert done.returncode == 0, done.stderr
    (line,) = (images.parent / "out" / "results.jsonl").read_bytes().splitlines()
    assert json.loads(line)["key"] == "images/new\nline.jpg"


def test_a_dash_reads_a_list_from_stdin(images: Path, shell: Callable) -> None:
    done = shell("ls images/*coffee* | head -2 | camcli explain - -o out -q", images.parent)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert len(maps(images.parent / "out")) == 2


def test_json_on_stdout_is_the_record_that_is_written(images: Path, shell: Callable) -> None:
    done = shell("camcli explain images/0-chelsea.jpg -o out --json -q", images.parent)
    (line,) = done.stdout.splitlines()
    record = json.loads(line)
    path = images.parent / "out" / "json" / f"{record['key']}.json"
    assert json.loads(path.read_bytes()) == record
    assert record["predictions"][0]["label"] == "tiger cat"


@pytest.mark.slow
def test_cron_has_no_terminal_no_home_and_no_term(images: Path, shell: Callable) -> None:
    command = (
        f"exec env -i PATH=/usr/bin:/bin {PROCESS} explain images -o out --limit 2 < /dev/null"
    )
    done = shell(command, images.parent)
    assert (done.returncode, done.stdout) == (0, b"")
    lines = done.stderr.decode().splitlines()
    assert lines[0].startswith("camcli: 2 explained in ")
    assert lines[1].startswith("2 of 2 HiResCAM maps at 'bn2' account for the class score exactly")
    assert len(lines) == 3


@pytest.mark.slow
def test_a_signal_finishes_the_batch_and_the_same_command_goes_on_to_the_same_bytes(
    images: Path, camcli: Callable
) -> None:
    command = [sys.executable, "-m", "camcli", "explain", "images", "--batch-size", "4"]
    journal = images.parent / "out" / "results.jsonl"
    started = [*command, "-o", "out"]
    with subprocess.Popen(started, cwd=images.parent, stderr=subprocess.PIPE) as process:
        while not journal.exists() or not journal.read_bytes():
            assert process.poll() is None
            time.sleep(0.02)
        process.terminate()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"stopped by SIGTERM" in errors
    committed = len(journal.read_bytes().splitlines())
    assert committed < 25
    assert len(maps(images.parent / "out")) == committed
    assert not list((images.parent / "out").rglob(".camcli-tmp-*"))
    again = ["explain", "images", "--batch-size", "4"]
    for out in ("out", "whole"):
        camcli(*again, "-o", out, cwd=images.parent, check=0)
    assert maps(images.parent / "out") == maps(images.parent / "whole")
    assert len(maps(images.parent / "out")) == 25


@pytest.mark.slow
def test_maps_have_the_same_bytes_alone_in_any_order_and_with_any_number_of_workers(
    images: Path, shell: Callable
) -> None:
    folder = images.parent
    shell("camcli explain images -o whole -j 4", folder)
    whole = maps(folder / "whole")
    assert len(whole) == 25
    shell("ls images/* | sort -r | camcli explain - -o reversed -j 1", folder)
    assert maps(folder / "reversed") == whole
    shell("camcli explain images/3-rocket.jpg -o alone", folder)
    assert maps(folder / "alone") == {"3-rocket.jpg.npz": whole["3-rocket.jpg.npz"]}
    assert np.load(folder / "alone" / "maps" / "images" / "3-rocket.jpg.npz")["cams"].any()


def test_help_version_completion_and_configuration_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from camcli.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, file=sys.stderr)"
    )
    for arguments, environment in (
        (["--help"], {}),
        (["--version"], {}),
        (["explain", "--help"], {}),
        (["config", "show"], {}),
        (["methods"], {}),
        ([], {"_CAMCLI_COMPLETE": "complete_bash", "COMP_WORDS": "camcli explain -m h",
              "COMP_CWORD": "3"}),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], env=os.environ | environment, cwd=tmp_path,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.stderr.splitlines()[-1] == b"False", (arguments, done.stderr)


def test_completion_knows_the_methods() -> None:
    words = {
        "COMP_WORDS": "camcli explain -m hi",
        "COMP_CWORD": "3",
        "_CAMCLI_COMPLETE": "complete_bash",
    }
    program = "from camcli.cli.app import app; app(prog_name='camcli')"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | words, capture_output=True, check=False
    )
    assert done.stdout.split() == [b"hirescam"]
