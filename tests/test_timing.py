"""Where a run's time goes, and that the clock changes nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from camcli import timing
from camcli.engine import Engine
from camcli.images.discover import Inputs
from camcli.job import Job
from camcli.outputs.render import Style
from camcli.records import ModelRequest
from camcli.run import Run
from tests.conftest import as_model

EVERYTHING = {"overlay", "json", "npz"}
SLOW = """
import time, torch
class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, stride=8)
        self.head = torch.nn.Linear(4, 3)
    def forward(self, x):
        time.sleep(0.05)
        return self.head(self.conv(x).mean((2, 3)))
"""


class Tiny(nn.Module):
    """A pause, one convolution and one linear layer."""

    def __init__(self, pause: float) -> None:
        super().__init__()
        self.pause, self.conv, self.head = pause, nn.Conv2d(3, 4, 3, stride=8), nn.Linear(4, 3)

    def forward(self, x):
        time.sleep(self.pause)
        return self.head(self.conv(x).mean((2, 3)))


def run_over(
    pictures: Path, output: Path, write: set[str], kind: type[Run] = timing.TimedRun
) -> Run:
    """A run of a network that takes at least 50 ms for every forward pass."""
    slow = pictures / "slow.py"
    slow.write_text(SLOW)
    recipe = {"size": (32, 32), "resize": 32, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    model = ModelRequest(f"{slow}:Slow", preprocessing=recipe, device="cpu")
    job = Job(
        Inputs((str(pictures),)), output, model, ("hirescam",), ("auto",), (), "predicted",
        frozenset(write), Style(), frozenset(), 10**8, workers=2, batch_size=2,
    )  # fmt: skip
    run = kind(job)
    assert all(record["status"] == "ok" for record in run.records())
    return run


@pytest.fixture
def pictures(picture: Callable[..., Path]) -> Path:
    for n in range(5):
        folder = picture(f"in/{n}.png", seed=n).parent
    return folder


def test_the_forward_pass_is_told_from_what_follows_it(pictures: Path, tmp_path: Path) -> None:
    times = run_over(pictures, tmp_path / "out", EVERYTHING).times
    assert times.pictures == 5
    assert times.forward >= 3 * 0.05  # three batches of two
    assert 0 < times.maps < times.forward
    assert min(times.decode, times.render, times.write, times.record) > 0


def test_the_stages_of_the_model_s_thread_add_up_to_the_run(pictures: Path, tmp_path: Path) -> None:
    times = run_over(pictures, tmp_path / "out", {"json"}).times
    parts = times.forward + times.maps + times.wait + times.record
    assert parts == pytest.approx(times.seconds, rel=1e-9)
    assert times.wait > 0
    assert times.render == 0  # no overlays were asked for
    assert times.write > 0


def test_a_timed_run_writes_what_a_run_writes(pictures: Path, tmp_path: Path) -> None:
    run_over(pictures, tmp_path / "timed", EVERYTHING)
    run_over(pictures, tmp_path / "plain", EVERYTHING, Run)
    for kind in ("maps", "overlays", "json"):
        written = sorted((tmp_path / "plain" / kind).iterdir())
        assert len(written) == 5
        for path in written:
            assert (tmp_path / "timed" / kind / path.name).read_bytes() == path.read_bytes()


def test_one_batch_is_timed_both_ways() -> None:
    engine = Engine(as_model(Tiny(0.01), 3), batch_size=2)
    times = timing.batch_times(engine, 3)
    assert min(times.plain, times.explaining) >= 10 / 2  # ms a picture
    assert times.ratio > 0.5
    assert timing.peak_memory() > 2**20
    assert timing.peak_device_memory(engine.model.device) is None
