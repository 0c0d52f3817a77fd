"""Folders that lose, gain and change files while a run reads them: every input is accounted for."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

from tests.faults.conftest import SMALL, Ended, committed, draw, faults, outputs, until


def test_files_that_go_come_and_change_during_a_run(
    images: Path, start: Callable, explain: Callable, tmp_path: Path
) -> None:
    folder, out = Path(shutil.copytree(images, tmp_path / "images")), tmp_path / "out"
    inner = folder / "zoo"
    inner.mkdir()
    for number in range(30):
        draw(inner / f"{number:02}.png", 100 + number)
    run = start("explain", folder, "-o", out, *SMALL, "-j", "1", "-q")
    until(out, 2)
    run.signal(signal.SIGSTOP)
    known = set(committed(out))
    lost, swapped = inner / "20.png", inner / "21.png"
    assert known.isdisjoint({"zoo/20.png", "zoo/21.png", "zoo/22.png"})
    lost.unlink()
    draw(tmp_path / "other.png", 7)
    os.replace(tmp_path / "other.png", swapped)
    (inner / "22.png").write_bytes((inner / "22.png").read_bytes()[:2000])  # cut while it is copied
    draw(folder / "zz.png", 8)  # its folder has been listed already
    draw(folder / "00.png", 9)  # and this one explained
    run.signal(signal.SIGCONT)
    ended = run.wait()
    assert ended.status in (0, 3)
    keys = committed(out)
    seen = {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")} - {"zz.png"}
    assert seen <= set(keys) <= seen | {"zoo/20.png"}
    assert len(keys) == len(set(keys))
    for line in ended.stderr.splitlines():
        assert line.startswith((f"camcli: {lost}: ", f"camcli: {inner / '22.png'}: "))
    draw(inner / "22.png", 122)
    assert explain(folder, out, "-q") == Ended(0, "", "")
    explain(folder, tmp_path / "whole", "-q")
    now = outputs(out)
    assert {name: now[name] for name in outputs(tmp_path / "whole")} == outputs(tmp_path / "whole")
    assert {name for name in now if "zoo/20.png" not in name} == set(outputs(tmp_path / "whole"))
    assert [finding.kind for finding in faults(out) if finding.kind != "gone"] == []
