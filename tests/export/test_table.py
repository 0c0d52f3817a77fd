"""`camcli export --csv`: every figure of every record, and nothing a spreadsheet would run."""

from __future__ import annotations

import csv
import json
import math
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.conftest import HOSTILE


def table(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_row_per_map_has_the_figures_of_its_record(out: Path, cli: Callable) -> None:
    assert cli("export", out, "--csv") == (0, "", f"camcli: 4 inputs: {out}/export/maps.csv\n")
    rows = table(out / "export" / "maps.csv")
    assert len(rows) == 3 * 4 + 1
    mine = [row for row in rows if row["key"] == "coffee.jpg"]
    record = json.loads((out / "json" / "coffee.jpg.json").read_bytes())
    for row, entry in zip(mine, record["explanations"], strict=True):
        assert (row["status"], row["method"], row["layer"]) == (
            "ok", entry["method"], entry["layer"])  # fmt: skip
        for name in ("score", "remainder", "baseline", "completeness_error", "hot_fraction"):
            given = entry[name]
            assert (float(row[name]) if row[name] else None) == given, name
        for name in ("min", "max", "sum"):
            assert math.isclose(float(row[f"cam_{name}"]), entry["cam"][name])
        assert [float(row[f"hot_{s}"]) for s in ("left", "top", "right", "bottom")] == entry[
            "hot_box"]  # fmt: skip
        assert row["faithful"] == str(entry["faithful"]).lower()
        assert (out / "export" / row["overlay"]).is_file()
        assert (out / "export" / row["npz"]).is_file()
        assert (out / "export" / row["path"]).is_file()


def test_a_failure_is_a_row_that_says_why(out: Path, cli: Callable) -> None:
    cli("export", out, "--csv")
    (row,) = [row for row in table(out / "export" / "maps.csv") if row["status"] == "error"]
    assert row["key"] == "text.jpg"
    assert row["error_message"] == "not a picture that can be identified"
    assert row["method"] == row["score"] == ""


def test_no_cell_begins_as_a_formula_does(out: Path, cli: Callable) -> None:
    cli("export", out, "--csv")
    rows = table(out / "export" / "maps.csv")
    assert f"'{HOSTILE}" in {row["key"] for row in rows}
    for row in rows:
        for name, cell in row.items():
            if cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
                float(cell)
                assert name in ("cam_min", "cam_max", "cam_sum", "score", "baseline", "remainder",
                                "predicted_logit", "outside_grid")  # fmt: skip


def test_a_damaged_record_costs_its_own_row(out: Path, cli: Callable) -> None:
    (out / "json" / "coffee.jpg.json").write_text("{")
    done = cli("export", out, "--csv")
    assert done.status == 3
    assert done.stderr.startswith("camcli: coffee.jpg: its outputs cannot be read (")
    assert len(table(out / "export" / "maps.csv")) == 2 * 4 + 1


@pytest.mark.parametrize(("options", "sentence"), [
    ([], "nothing to export; give --coco, --fiftyone or --csv"),
    (["--coco", "--csv", "-o", "x"], "-o 'x' is one file; give one of coco, csv with it"),
    (["--csv", "--threshold", "0.5"],
     "--threshold is for --coco; records have their hot boxes at 0.15"),
    (["--coco", "--threshold", "0"], "--threshold must be above 0 and at most 1, not 0.0"),
    (["--coco", "--threshold", "nan"], "--threshold must be above 0 and at most 1, not nan"),
])  # fmt: skip
def test_what_cannot_be_asked_for_is_one_sentence(
    options: list[str], sentence: str, tmp_path: Path, cli: Callable
) -> None:
    assert cli("export", tmp_path, *options) == (2, "", f"camcli: {sentence}\n")


def test_a_directory_without_a_run_or_without_maps_says_so(out: Path, cli: Callable) -> None:
    done = cli("export", out.parent, "--csv")
    assert done.status == 2
    assert "holds no camcli run" in done.stderr
    run = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(run | {"write": ["json"]}))
    done = cli("export", out, "--coco")
    assert (done.status, done.stderr) == (
        2, f"camcli: '{out}' was written with --write json; this export needs json and npz\n"
    )  # fmt: skip
    assert cli("export", out, "--csv").status == 0


def test_a_run_in_progress_and_shards_not_started_are_said(out: Path, cli: Callable) -> None:
    run = json.loads((out / "run.json").read_bytes())
    (out / "run.json").write_text(json.dumps(run | {"status": "running"}))
    lines = cli("export", out, "--csv").stderr.splitlines()
    assert lines[0] == "camcli: the run is not finished; what it has committed so far is exported"
    (out / "run.json").unlink()
    (out / "run-000-of-003.json").write_text(json.dumps(run))
    (out / "results.jsonl").rename(out / "results-000-of-003.jsonl")
    lines = cli("export", out, "--csv").stderr.splitlines()
    assert lines[0] == "camcli: 1 of 3 shards have been started; these are exported"
    assert lines[1].startswith("camcli: 4 inputs")


def _no_large_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))


def test_a_full_disk_leaves_what_was_there(out: Path, cli: Callable) -> None:
    cli("export", out, "--csv", "--coco")
    before = {path: path.read_bytes() for path in (out / "export").iterdir()}
    for form in ("--csv", "--coco"):
        command = [sys.executable, "-m", "camcli", "export", out, form]
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=300, preexec_fn=_no_large_files
        )
        assert done.returncode == 1
        assert done.stderr.startswith(b"camcli: cannot write to '"), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in (out / "export").iterdir()} == before
