"""The benchmarks' own parts on a few small pictures: that they run, not what they measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.benchmarks import contenders, engine, files, folder, memory
from tests.benchmarks.processes import ROOT, Cost, FailedError, cost, planted
from tests.conftest import live_in

MODEL = "squeezenet1_1"
SIZE = 64


@pytest.fixture
def pictures(picture: Callable[..., Path]) -> list[Path]:
    return [picture(f"in/{n}.jpg", size=(90, 70), seed=n) for n in range(3)]


def task(pictures: list[Path], output: Path) -> contenders.Task:
    given = {"folder": str(pictures[0].parent), "output": str(output), "model": MODEL,
             "weights": "none", "device": "cpu", "batch_size": 2, "size": SIZE}  # fmt: skip
    output.mkdir()
    contenders.describe(contenders.Task(**given))
    facts = json.loads((output / "facts.json").read_text())
    assert facts["layer"] == "features"
    return contenders.Task(**given, layer=facts["layer"], grid=facts["grid"])


def test_predicting_only_gives_the_class_of_every_picture(
    pictures: list[Path], tmp_path: Path, camcli: Callable
) -> None:
    contenders.predict(task(pictures, tmp_path / "out"))
    found = dict(line.split("\t") for line in
                 (tmp_path / "out" / "predicted.txt").read_text().splitlines())  # fmt: skip
    assert list(found) == ["0.jpg", "1.jpg", "2.jpg"]
    done = camcli("explain", pictures[0].parent, "-o", tmp_path / "ours", "--model", MODEL,
                  "--weights", "none", "--size", SIZE, "--resize", SIZE, "--batch-size", 2,
                  "--json", "-q", check=0)  # fmt: skip
    for line in done.stdout.splitlines():
        record = json.loads(line)
        assert found[record["key"]] == str(record["predictions"][0]["index"])


@pytest.mark.parametrize("name", contenders.PEERS)
def test_every_peer_draws_an_overlay_of_every_picture(
    name: str, pictures: list[Path], tmp_path: Path
) -> None:
    pytest.importorskip(folder.MODULES[name.partition("-")[0]])
    contenders.PEERS[name](task(pictures, tmp_path / "out"))
    drawn = sorted((tmp_path / "out").glob("*.jpg"))
    assert [path.name for path in drawn] == ["0.jpg", "1.jpg", "2.jpg"]
    for path in drawn:
        assert np.asarray(Image.open(path)).std() > 1


def test_a_frozen_peer_gives_the_same_overlays(pictures: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pytorch_grad_cam")
    pytest.importorskip("torchcam")
    for name in ("pytorch-grad-cam", "torchcam"):
        outputs = [tmp_path / name, tmp_path / f"{name}-frozen"]
        for output in outputs:
            contenders.PEERS[output.name](task(pictures, output))
        for path in outputs[0].glob("*.jpg"):
            one, two = (np.asarray(Image.open(o / path.name), np.float32) for o in outputs)
            assert np.abs(one - two).mean() < 1


@pytest.mark.slow
def test_a_race_is_a_table_of_processes(
    pictures: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAMCLI_PHOTOS", str(pictures[0].parent))
    folder.main(["--models", MODEL, "--pictures", "4", "--rounds", "1", "--size", str(SIZE),
                 "--contenders", "predict,camcli", "--output", str(tmp_path / "t.md")])  # fmt: skip
    lines = (tmp_path / "t.md").read_text().splitlines()
    assert lines[0].startswith("4 photographs; medians of 1 rounds; ")
    assert f"torch {torch.__version__}" in lines[0]
    assert lines[2].startswith(f"| {MODEL} | batch | seconds |")
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| predicting only", "| camcli"]


def test_figures_are_medians_of_ratios_within_a_round() -> None:
    def row(name: str, *seconds: float) -> folder.Row:
        return folder.Row(name, 16, [Cost(s, 2**20) for s in seconds])

    rows = [row("predict", 1, 10, 2), row("camcli", 2, 15, 5), folder.Row("captum", 8, [], "no|")]
    assert list(folder.table(rows, "m", 100))[2:] == [
        "| predicting only | 16 | 2.0 | 50.0 | 1.00 | 0.50 | 1 |",
        "| camcli | 16 | 5.0 | 20.0 | 2.00 | 1.00 | 1 |",
        "| captum | | no/ | | | | |",
    ]


def test_drift_counts_changed_classes_and_measures_the_maps_of_the_others(tmp_path: Path) -> None:
    cam = np.array([[[1.0, -2.0]]], np.float32)
    for name, index, gap in (("a", 1, 0.0), ("b", 1, 0.5)):
        for kind in ("json", "maps"):
            (tmp_path / name / kind).mkdir(parents=True)
        for key, own in (("x.jpg", 1), ("y.jpg", index if name == "a" else 2)):
            record = {"predictions": [{"index": own}]}
            (tmp_path / name / "json" / f"{key}.json").write_text(json.dumps(record))
            np.savez(tmp_path / name / "maps" / f"{key}.npz", cams=cam + gap)
    assert folder.drift(tmp_path / "a", tmp_path / "b") == folder.Drift(0.5, 0.25)


def test_a_process_that_fails_says_why() -> None:
    with pytest.raises(FailedError, match=r"^ValueError: of this$"):
        cost([sys.executable, "-c", "raise ValueError('of this')"])


def test_the_process_that_measures_others_stays_small() -> None:
    for module in ("folder", "memory"):
        code = f"import sys, tests.benchmarks.{module}; sys.exit('torch' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_planted_pictures_share_the_bytes_of_the_originals(pictures: list[Path]) -> None:
    with planted(pictures, 7) as where:
        found = sorted(where.iterdir())
        assert [path.read_bytes() for path in found] == [
            pictures[n % 3].read_bytes() for n in range(7)
        ]
        assert len({os.stat(path).st_ino for path in found}) == 3
    assert not where.exists()


def test_large_photographs_are_made_and_drawn(pictures: list[Path], tmp_path: Path) -> None:
    made = memory.enlarged(pictures, tmp_path, (320, 240))
    assert [Image.open(path).size for path in made] == [(320, 240)] * 3
    assert min(memory.drawing(made[0], 200, 2)) > 0


def test_the_engine_s_benchmark_measures_a_network() -> None:
    assert min(vars(engine.measure(MODEL, 1, 1)).values()) > 0


@pytest.mark.parametrize("form", ["traced", "exported"])
def test_the_files_benchmark_measures_a_file(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "SIDE", 32)
    layers = nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    module = live_in(nn.Sequential(*layers, nn.Linear(4, 3)), 32)
    assert files.ratio(files.written(form, module, tmp_path), 2, 1) > 0
