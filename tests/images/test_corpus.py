"""Damaged files of every format: exactly one outcome each, no crash, no hang."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from camcli import config
from camcli.cli.explain import job_of
from camcli.images.decode import decode
from camcli.images.isolated import IsolatedDecoder
from camcli.records import Decoded, Failure, ImageRef
from camcli.run import Run
from tests.images import corpus
from tests.images.decoding import SETTINGS, decoded

SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "write": "json"}


def written(folder: Path, share: int) -> list[Path]:
    """One in `share` of the damaged files."""
    folder.mkdir()
    paths = []
    for number, (name, data) in enumerate(corpus.damaged()):
        if number % share == 0:
            paths.append(folder / name)
            paths[-1].write_bytes(data)
    return sorted(paths)


def test_the_undamaged_files_are_decoded(tmp_path: Path) -> None:
    files = corpus.whole()
    assert {name.rsplit(".")[-1] for name in files} >= {"jpg", "png", "gif", "tif", "bmp", "ppm"}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        size = (48, 40) if name == "turned.jpg" else (40, 48)
        assert decoded(tmp_path / name).shape == (*size, 3), name


def test_an_interlaced_png_has_its_pixels_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "interlaced.png").write_bytes(corpus.interlaced())
    gray = decoded(tmp_path / "interlaced.png")[:, :, 0]
    np.testing.assert_array_equal(gray, np.arange(0, 256, 4).reshape(8, 8))


@pytest.mark.parametrize("share", [15, pytest.param(1, marks=pytest.mark.slow)])
def test_every_damaged_file_has_one_outcome_alone_and_one_line_in_a_run(
    tmp_path: Path, share: int
) -> None:
    paths = written(tmp_path / "in", share)
    assert len(paths) >= 2000 // share
    outcomes: dict[str, Decoded | Failure] = {}
    with IsolatedDecoder(1, 20) as isolated:
        for path in paths:
            ref = ImageRef(str(path), path.name)
            outcome = outcomes[path.name] = decode(ref, SETTINGS, isolated.decode)
            if isinstance(outcome, Failure):
                assert outcome.type not in ("DecoderCrashError", "TimeoutError"), outcome
                assert outcome.message.isprintable(), outcome
                assert 0 < len(outcome.message) <= 300
    failed = {name for name, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert 0 < len(failed) < len(paths)

    chosen, _ = config.resolve(SMALL | {"output": str(tmp_path / "out")}, {}, None)
    run = Run(job_of(chosen, (str(tmp_path / "in"),), set()))
    for _ in run.records():
        pass
    lines = [json.loads(x) for x in (tmp_path / "out" / "results.jsonl").read_bytes().splitlines()]
    assert [line["key"] for line in lines] == [path.name for path in paths]
    # The pixel limit is the only thing in which the two differ.
    refused = {name for name in failed if "--max-pixels" in outcomes[name].message}  # type: ignore[union-attr]
    assert failed - refused <= {x["key"] for x in lines if x["status"] == "error"} <= failed
