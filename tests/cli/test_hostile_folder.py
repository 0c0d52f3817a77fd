"""A folder with everything that cron jobs meet: each input is accounted for, nothing hangs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

from camcli.outputs import schema

SAMPLE = Path(__file__).parents[2] / "samples" / "chelsea.jpg"
GOOD_NAMES = ["with space.jpg", "new\nline.jpg", "quote'\".jpg", "[red]bold.jpg",
              "\x1b[31mterminal.jpg", "a" * 246 + ".jpg", "ünï.JPG"]  # fmt: skip
BROKEN = {
    "truncated.jpg": "truncated",
    "text.jpg": "not a picture that can be identified",
    "empty.jpg": "the file is empty",
    "fifo.jpg": "not a regular file",
    "loop.jpg": "Too many levels of symbolic links",
}


def fill(folder: Path) -> set[bytes]:
    """The hostile folder; returns the names of the pictures that can be explained."""
    data = SAMPLE.read_bytes()
    folder.mkdir()
    (folder / "truncated.jpg").write_bytes(data[: len(data) // 2])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.jpg").touch()
    os.mkfifo(folder / "fifo.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "upwards").symlink_to(".")
    picture = Image.open(SAMPLE)
    deep = np.asarray(picture.convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(folder / "deep.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    palette = picture.convert("RGBA")
    palette.putalpha(128)
    palette.quantize(64).save(folder / "palette.png")
    picture.resize((4000, 3000)).save(folder / "phone.jpg")
    for name in GOOD_NAMES:
        shutil.copy(SAMPLE, folder / name)
    shutil.copy(SAMPLE, os.fsencode(folder) + b"/bytes-\xff\xfe.jpg")
    good = {os.fsencode(name) for name in GOOD_NAMES}
    return good | {b"deep.png", b"cmyk.jpg", b"palette.png", b"phone.jpg", b"bytes-\xff\xfe.jpg"}


@pytest.fixture(scope="module")
def run(camcli: Callable, tmp_path_factory: pytest.TempPathFactory):
    """The folder explained once: (folder, output, the process, the good names)."""
    base = tmp_path_factory.mktemp("hostile")
    good = fill(base / "images")
    done = camcli("explain", base / "images", "-o", base / "out", check=3)
    return base / "images", base / "out", done, good


def journal(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]


def test_every_input_has_one_journal_line(run) -> None:
    _, out, _, good = run
    lines = journal(out)
    assert len(lines) == len({line["key"] for line in lines}) == len(good) + len(BROKEN)
    explained = {os.fsencode(os.path.basename(x["source"])) for x in lines if x["status"] == "ok"}
    assert explained == good


def test_what_is_broken_says_why(run) -> None:
    _, out, _, _ = run
    errors = {line["key"]: line["error"] for line in journal(out) if line["status"] == "error"}
    assert errors.keys() == BROKEN.keys()
    for key, reason in BROKEN.items():
        assert reason in errors[key]


def test_every_record_is_valid_and_every_output_is_inside_and_readable(run) -> None:
    _, out, _, good = run
    validator = jsonschema.Draft202012Validator(schema())
    records = [json.loads(path.read_bytes()) for path in (out / "json").rglob("*.json")]
    assert len(records) == len(good) + len(BROKEN)
    for record in records:
        validator.validate(record)
        if record["status"] == "ok":
            maps = np.load(out / "maps" / (record["key"] + ".npz"), allow_pickle=False)
            assert maps["cams"].shape == (1, 7, 7)
            with Image.open(out / record["explanations"][0]["overlay"]) as overlay:
                overlay.load()
                assert max(overlay.size) <= 1024


def test_names_reach_the_terminal_without_control_characters(run) -> None:
    _, _, done, _ = run
    assert b"\x1b" not in done.stderr
    lines = done.stderr.decode().splitlines()
    assert sum("Too many levels" in line for line in lines) == 1
    assert len(lines) == len(BROKEN) + 3  # a line a failure, the counts, two of the verdict


def test_a_second_run_reports_the_failures_does_not_repeat_them_and_loads_no_torch(run) -> None:
    folder, out, _, good = run
    before = (out / "results.jsonl").read_bytes()
    code = (
        "import sys; from camcli.cli.app import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "explain", folder, "-o", out]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, b"False\n"), done.stderr
    assert (
        f"0 explained, {len(good)} already done, {len(BROKEN)} failed in an earlier run".encode()
        in done.stderr
    )
    assert (out / "results.jsonl").read_bytes() == before


def test_retry_failed_tries_them_again(run, camcli: Callable) -> None:
    folder, out, _, _ = run
    done = camcli("explain", folder, "-o", out, "--retry-failed", check=3)
    assert f"0 explained, {len(BROKEN)} failed".encode() in done.stderr
