"""Exit statuses, and the one sentence that goes with each fault."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from camcli.cli.app import main

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("statuses") / "images"
    folder.mkdir()
    for sample in SAMPLES.glob("*.jpg"):
        shutil.copy(sample, folder)
    return folder


@pytest.fixture(scope="module")
def explained(images: Path, camcli: Callable) -> Path:
    """An output directory in which everything is done."""
    out = images.parent / "explained"
    camcli("explain", images, "-o", out, "-q", check=0)
    return out


WRONG = [
    (["--method", "hirescan"], "no method 'hirescan'; did you mean 'hirescam'?"),
    (["--layer", "bn3"], "no layer 'bn3' in efficientnet_lite0; did you mean 'bn2'?"),
    (["--target", "expreso"], "no class 'expreso' among 1000; did you mean 'espresso'?"),
    (["--target", "cardigan"], "class 'cardigan' is ambiguous: give one of the indices [264, 474]"),
    (["--target", "top:0"], "--target top:0: K must be a number from 1 to 1000"),
    (["--target", "csv:none.csv"], "--target csv:none.csv cannot be read"),
    (["--model", "resnet51"], "no model 'resnet51'; did you mean 'resnet50'?"),
    (["--weights", "mine.pth"], "--weights mine.pth: efficientnet_lite0 comes with its own"),
    (["--colormap", "virdis"], "turbo, jet, not 'virdis'; did you mean 'viridis'?"),
    (["--alpha", "2"], "--alpha must be at most 1, not 2.0"),
    (["--batch-size", "none"], "--batch-size must be a whole number, not 'none'"),
    (["--scale", "run"], "--scale must be image or a positive number, not 'run'"),
    (["--mean", "0.5"], "--mean needs three numbers (R,G,B), not 1"),
    (["--size", "300", "--resize", "256"], "--resize 256 is smaller than the view 300x300"),
    (["--labels", "none.txt"], "--labels none.txt cannot be read"),
    (["--config", "none.toml"], "--config none.toml cannot be read: No such file or directory"),
    (["--files-from", "none.txt"], "cannot read the list 'none.txt': No such file or directory"),
    (["--write", "overlay,pdf"], "--write must be one of overlay, json, npz, not 'pdf'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=lambda value: str(value)[:40])
def test_a_wrong_option_is_one_sentence_and_exit_status_2(
    options: list[str],
    sentence: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["camcli", "explain", str(images), *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("camcli: ")
    assert sentence in line
    assert out == ""
    assert not list(tmp_path.rglob("*.jsonl"))


def test_nothing_named_is_a_usage_error(camcli: Callable) -> None:
    done = camcli("explain", check=2)
    assert b"nothing to explain: name pictures or folders" in done.stderr


def test_a_folder_that_does_not_exist_is_a_usage_error(camcli: Callable, tmp_path: Path) -> None:
    done = camcli("explain", tmp_path / "imagse", cwd=tmp_path, check=2)
    assert b"no file or folder" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_folder_without_pictures_is_status_4_and_writes_nothing(
    camcli: Callable, tmp_path: Path
) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "a.txt").write_text("text")
    done = camcli("explain", folder, cwd=tmp_path, check=4)
    assert b"no pictures found (1 other files ignored)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["texts"]


def test_weights_that_cannot_be_downloaded_are_status_1(
    images: Path, camcli: Callable, tmp_path: Path
) -> None:
    environment = os.environ | {"TORCH_HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    arguments = ("explain", images, "--model", "resnet18", "-o", tmp_path / "out")
    done = camcli(*arguments, env=environment, check=1)
    (line,) = done.stderr.decode().splitlines()
    assert (
        "the weights cannot be downloaded from https://download.pytorch.org/models/resnet18" in line
    )
    assert "--weights FILE" in line


def test_another_device_is_status_1(images: Path, camcli: Callable, tmp_path: Path) -> None:
    done = camcli("explain", images, "--device", "cuda:99", "-o", tmp_path / "out", check=1)
    assert b"--device cuda:99 cannot be used" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_held_output_directory_is_status_75_and_can_be_waited_for(
    images: Path, explained: Path, camcli: Callable
) -> None:
    with open(explained / ".camcli.lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = camcli("explain", images, "-o", explained, check=75)
        assert b"another run is writing to" in done.stderr
        command = [sys.executable, "-m", "camcli", "explain", images, "-o", explained]
        waiting = subprocess.Popen([*command, "--lock-timeout", "60"], stderr=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(2)
    assert waiting.wait(60) == 0
    waiting.communicate()


def test_a_lock_dies_with_its_process(images: Path, tmp_path: Path, camcli: Callable) -> None:
    code = "import fcntl,sys,os; fcntl.flock(open(sys.argv[1],'wb'), 2); os.kill(os.getpid(), 9)"
    (tmp_path / "out").mkdir()
    subprocess.run([sys.executable, "-c", code, tmp_path / "out" / ".camcli.lock"], check=False)
    done = camcli("explain", images, "-o", tmp_path / "out", "--limit", "1", check=0)
    assert b"1 explained" in done.stderr


def test_maps_of_another_kind_in_the_same_directory_are_refused(
    images: Path, explained: Path, camcli: Callable
) -> None:
    done = camcli("explain", images, "-o", explained, "-m", "gradcam", check=2)
    assert b"holds maps made with another method; choose another directory with -o" in done.stderr
    assert b"--overwrite" in done.stderr


def test_the_same_thing_said_otherwise_goes_on(
    images: Path, explained: Path, camcli: Callable
) -> None:
    same = ("--layer", "bn2", "--batch-size", "16", "--device", "cpu")
    done = camcli("explain", images, "-o", explained, *same, check=0)
    assert b"0 explained, 5 already done" in done.stderr


def test_a_changed_picture_is_explained_again(
    images: Path, tmp_path: Path, camcli: Callable
) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    camcli("explain", folder, "-o", tmp_path / "out", check=0)
    shutil.copy(folder / "rocket.jpg", folder / "coffee.jpg")
    done = camcli("explain", folder, "-o", tmp_path / "out", check=0)
    assert b"1 explained, 1 changed since an earlier run, 4 already done" in done.stderr
    record = json.loads((tmp_path / "out" / "json" / "coffee.jpg.json").read_bytes())
    assert record["predictions"][0]["label"] == "missile"


@pytest.mark.parametrize(
    ("options", "failures"), [(["--fail-fast"], 1), (["--max-errors", "2"], 3)]
)
def test_a_run_can_be_told_to_give_up(
    options: list[str], failures: int, tmp_path: Path, camcli: Callable
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for n in range(40):
        (folder / f"{n:02}.jpg").write_text("no picture")
    done = camcli("explain", folder, "-o", tmp_path / "out", *options, "-j", "1", check=3)
    lines = (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()
    assert failures <= len(lines) < 40
    assert b"stopped by" in done.stderr


def test_overwrite_starts_over(images: Path, tmp_path: Path, camcli: Callable) -> None:
    out = tmp_path / "out"
    camcli("explain", images, "-o", out, "--limit", "2", check=0)
    camcli("explain", images / "rocket.jpg", "-o", out, "-m", "gradcam", "--overwrite", check=0)
    names = [path.name for path in (out / "maps").rglob("*.npz")]
    assert names == ["rocket.jpg.npz"]
    assert json.loads((out / "run.json").read_bytes())["identity"]["method"] == ["gradcam"]


@pytest.mark.slow
def test_overwrite_takes_the_old_report_and_evaluation_along_and_nothing_else(
    images: Path, tmp_path: Path, camcli: Callable
) -> None:
    out = tmp_path / "out"
    again = ["explain", images / "rocket.jpg", "-o", out, "--overwrite"]
    camcli(*again, check=0)
    camcli("report", out, check=0)
    camcli("evaluate", out, "--metrics", "sparseness", check=0)
    camcli("export", out, "--csv", check=0)
    assert sorted(os.listdir(out / "evaluation")) == ["evaluation.csv", "evaluation.json"]
    (out / "report" / "notes.txt").write_text("mine")
    camcli(*again, check=0)
    left = {name for name in os.listdir(out / "report") if not name.startswith(".")}
    assert left == {"notes.txt"}
    assert not (out / "evaluation").exists()
    assert (out / "export" / "maps.csv").is_file()
    (out / "report" / "index.html").write_text("my own page")
    (out / "evaluation").mkdir()
    (out / "evaluation" / "evaluation.json").write_text('["mine"]')
    camcli(*again, check=0)
    assert (out / "report" / "index.html").read_text() == "my own page"
    assert (out / "evaluation" / "evaluation.json").read_text() == '["mine"]'


def test_dry_run_lists_and_writes_nothing(images: Path, tmp_path: Path, camcli: Callable) -> None:
    done = camcli(
        "explain", images, "-o", tmp_path / "out", "--dry-run", "--exclude", "r*", check=0
    )
    assert done.stdout.decode().splitlines() == [
        str(images / f"{name}.jpg") for name in ("chelsea", "coffee", "helmet", "photographer")
    ]
    assert not list(tmp_path.iterdir())


def test_dry_run_says_why_where_it_is_asked(images: Path, tmp_path: Path, camcli: Callable) -> None:
    folder, out = shutil.copytree(images, tmp_path / "images"), tmp_path / "out"
    small = ("--model", "squeezenet1_1", "--weights", "none", "--size", "64", "-o", out)
    (folder / "broken.jpg").write_bytes(b"no picture")
    camcli("explain", folder, *small, check=3)
    (out / "maps" / "coffee.jpg.npz").unlink()
    camcli("verify", out, "--fix", check=3)
    (folder / "chelsea.jpg").write_bytes((folder / "helmet.jpg").read_bytes())
    shutil.copy(folder / "helmet.jpg", folder / "zoo.jpg")
    dry = ("explain", folder, *small, "-n", "-v", "--retry-failed", "--colormap", "jet")
    done = camcli(*dry, check=0)
    assert dict(line.split("\t") for line in done.stdout.decode().splitlines()) == {
        str(folder / "broken.jpg"): "--retry-failed",
        str(folder / "chelsea.jpg"): "changed",
        str(folder / "coffee.jpg"): "lost (camcli verify --fix)",
        str(folder / "zoo.jpg"): "new",
    }
    assert done.stderr.decode().splitlines() == [
        "camcli: 4 would be explained, 3 already done, 0 failed earlier, 4 would be redrawn",
        "camcli: 1 --retry-failed, 1 changed, 1 lost (camcli verify --fix), 1 new",
    ]
    assert b"\t" not in camcli("explain", folder, *small, "-n", check=0).stdout
    over = camcli("explain", folder, *small, "-n", "--overwrite", check=0)
    assert b"7 would be explained" in over.stderr
    assert b"camcli: 7 --overwrite" in over.stderr


def test_limit_takes_the_first_and_then_the_rest(
    images: Path, tmp_path: Path, camcli: Callable
) -> None:
    camcli("explain", images, "-o", tmp_path / "out", "--limit", "2", check=0)
    done = camcli("explain", images, "-o", tmp_path / "out", check=0)
    assert b"3 explained, 2 already done" in done.stderr


def test_a_read_only_output_is_status_1(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    tmp_path.chmod(0o755)
    command = [sys.executable, "-m", "camcli", "explain", str(images), "-o", str(out)]
    if os.geteuid() == 0:  # root may write anywhere: hand its powers back
        if shutil.which("setpriv") is None:
            pytest.skip("root, and no setpriv to become less")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    done = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.decode().splitlines()
    assert "cannot write to the output directory" in line
    assert "Permission denied" in line
