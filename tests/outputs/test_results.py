from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from camcli import config
from camcli.cli.explain import job_of
from camcli.outputs import manifest
from camcli.outputs.results import Result, results
from camcli.run import Run
from camcli.shard import WHOLE

SAMPLES = Path(__file__).parents[2] / "samples"


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explained") / "out"
    settings = {"model": "squeezenet1_1", "weights": "none", "size": "64", "output": str(out)}
    chosen, _ = config.resolve(settings, {}, None)
    for _ in Run(job_of(chosen, (str(SAMPLES),), set())).records():
        pass
    return out


def results_of(directory: Path, *lines: tuple[str, str]) -> list[Result]:
    directory.joinpath("results.jsonl").write_text(
        "".join(json.dumps({"key": k, "source": f"/in/{k}", "status": s}) + "\n" for k, s in lines)
    )
    return list(results(directory, [WHOLE]))


def test_the_last_line_of_an_input_says_how_it_ended(tmp_path: Path) -> None:
    found = results_of(
        tmp_path, ("a", "ok"), ("b", "ok"), ("c", "error"), ("a", "error"), ("b", "lost")
    )
    assert [(result.key, result.explained) for result in found] == [("c", False), ("a", False)]
    assert found[0].source == "/in/c"


def test_a_result_reads_its_record_and_maps(explained: Path) -> None:
    for result in results(explained, manifest.require_all(explained)):
        record, (maps, geometry) = result.record(), result.maps()
        assert record["key"] == result.key
        assert [list(cam.shape) for cam in maps] == [
            entry["cam"]["shape"] for entry in record["explanations"]
        ]
        assert np.isclose(maps[0].max(), record["explanations"][0]["cam"]["max"])
        assert geometry.source == (record["width"], record["height"])


def test_a_record_that_is_gone_is_an_error_when_it_is_read(tmp_path: Path) -> None:
    (result,) = results_of(tmp_path, ("a", "ok"))
    with pytest.raises(FileNotFoundError):
        result.record()
