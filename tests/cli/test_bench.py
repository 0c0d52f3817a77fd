"""`camcli bench`: what it prints of a model and of a folder."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = ["--model", "squeezenet1_1", "--weights", "none", "--size", "64", "--batch-size", "2"]


@pytest.fixture
def pictures(picture: Callable[..., Path]) -> Path:
    for n in range(5):
        folder = picture(f"in/{n}.png", seed=n).parent
    return folder


def test_bench_shows_what_a_batch_costs_and_where_the_time_of_a_folder_goes(
    cli: Callable, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = cli("bench", pictures, *SMALL, "--rounds", "1")
    assert done.status == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("squeezenet1_1 on cpu, fp32, ")
    assert [line.split()[0] for line in lines if line.startswith("  ")] == [
        "plain", "explaining", "forward", "maps", "wait", "record",
        "decode", "render", "write", "idle",
    ]  # fmt: skip
    assert re.search(r"^5 pictures +ms a picture +share$", done.stdout, re.MULTILINE)
    assert re.fullmatch(r"[\d.]+ pictures a second", lines[-3])
    assert re.fullmatch(r"[\d,]+ MiB of memory at most", lines[-1])
    assert done.stderr == (
        "camcli: 5 pictures only, and every batch is filled up to 2; measure on more\n"
    )
    assert list(tmp_path.glob("camcli-bench-*")) == []


def test_shares_of_every_kind_of_thread_add_up(cli: Callable, pictures: Path) -> None:
    done = cli("bench", pictures, *SMALL, "--rounds", "1", "-q")
    shares = [float(share) for share in re.findall(r"([\d.]+)%$", done.stdout, re.MULTILINE)]
    assert len(shares) == 8
    assert sum(shares[:4]) == pytest.approx(100, abs=0.3)
    assert sum(shares[4:]) == pytest.approx(100, abs=0.3)
    assert done.stderr == ""


def test_bench_prints_json_and_needs_no_pictures(cli: Callable) -> None:
    done = cli("bench", *SMALL, "--rounds", "1", "--json")
    found = json.loads(done.stdout)
    assert (done.status, found["folder"], found["batch_size"]) == (0, None, 2)
    assert found["batch"]["plain_ms"] > 0
    assert found["ready_seconds"] > 0
    assert found["peak_memory"] > 2**20


def test_bench_says_what_cannot_be_read(cli: Callable, pictures: Path, tmp_path: Path) -> None:
    (pictures / "b.jpg").write_text("no picture")
    done = cli("bench", pictures, *SMALL, "--rounds", "1", "--json", "--limit", "2")
    assert done.status == 0  # the first two, by name
    assert json.loads(done.stdout)["folder"]["pictures"] == 2
    done = cli("bench", pictures / "b.jpg", *SMALL, "--rounds", "1")
    assert done.status == 3
    assert done.stderr.splitlines()[0] == (
        f"camcli: {pictures}/b.jpg: not a picture that can be identified"
    )
    assert cli("bench", tmp_path / "gone", *SMALL).status == 2
