"""The data of a page: its figures are those of the records, its maps those of the NPZ."""

from __future__ import annotations

import json
import math
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pytest

from camcli.images.geometry import Geometry
from camcli.outputs import arrays, paths
from camcli.report import building, gathering, pictures
from camcli.report.blocks import encoded
from camcli.report.pictures import FIELDS
from tests.report.reading import read
from tests.report.synthetic import HOSTILE, write_run


def record(*entries: tuple[str, int], size: tuple[int, int] = (8, 8)) -> dict:
    """A record with maps of these methods and targets."""
    return {
        "width": size[0], "height": size[1], "view": {"size": size, "crop_box": (0, 0, *size)},
        "explanations": [{"method": method, "target": {"index": index, "against": None}}
                         for method, index in entries],
    }  # fmt: skip


def test_figures_and_records_of_the_page_are_those_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "CHUNK", 8)
    monkeypatch.setattr(building, "CHUNK", 8)
    monkeypatch.setattr(gathering, "PART", 3)
    out = write_run(tmp_path / "out", 20, tmp_path / "in", failing=10)
    made = building.build(out)
    assert (made.pictures, made.failed, made.unreadable) == (20, 2, 0)
    page = read(out)
    assert [len(chunk["keys"]) for chunk in page.columns] == [8, 8, 4]
    assert [len(part["rows"]) for part in page.parts] == [3, 3, 3, 3, 3, 3, 2]
    figures = {name: page.column(name) for name in ("status", "predicted", "confidence", "hot",
                                                    "completeness", "width", "given")}  # fmt: skip
    values = []
    for place, (key, row) in enumerate(zip(page.keys, page.rows, strict=True)):
        saved = json.loads((out / paths.json_path(key)).read_bytes())
        if saved["status"] == "error":
            assert row is None
            assert figures["status"][place] == pictures.FAILED
            error = saved["error"]
            assert page.failures[place] == [error["type"], error["stage"], error["message"]]
            continue
        best, first = saved["predictions"][0], saved["explanations"][0]
        assert figures["status"][place] == (first["cam"]["status"] != "ok")
        assert figures["predicted"][place] == best["index"]
        assert figures["confidence"][place] == pytest.approx(best["probability"])
        assert figures["completeness"][place] == pytest.approx(first["completeness_error"])
        assert figures["width"][place] == saved["width"]
        assert figures["given"][place] == -1
        hot = first["hot_fraction"]
        assert figures["hot"][place] == pytest.approx(math.nan if hot is None else hot, nan_ok=True)
        for entry, told in zip(saved["explanations"], row[6], strict=True):
            known = dict(zip(FIELDS, told, strict=True))
            assert known["method"] == entry["method"]
            assert known["score"] == pytest.approx(entry["score"], rel=1e-6)
            assert known["sum"] == pytest.approx(entry["cam"]["sum"], rel=1e-6)
            assert f"overlays/{key}.{known['overlay']}" == entry["overlay"]
        maps, _ = arrays.read(out / paths.npz_path(key))
        values += [value for cam in maps for value in cam.ravel().tolist()]
    assert page.maps == values
    low, high = page.run["maxima"]["hirescam features"]
    assert low < 0 < high <= max(values)


def test_links_lead_to_the_files(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", 104, tmp_path / "a b#", failing=0)
    building.build(out)
    page = read(out)
    (chunk,) = page.columns
    folders, places = chunk["roots"], page.column("root")
    for place, key in enumerate(page.keys):
        folder = folders[places[place]]
        href = chunk["sources"][str(place)] if folder is None else folder + quote(key)
        assert (out / "report" / unquote(href)).resolve() == (tmp_path / "a b#" / key).resolve()
        suffix = chunk["overlays"][page.column("overlay")[place]]
        assert (out / "overlays" / f"{key}.{suffix}").is_file()
    assert page.keys[: len(HOSTILE)] == list(HOSTILE)


def test_no_name_and_no_label_gets_out_of_its_string(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", 104, tmp_path / "in")
    for embed in (False, True):
        building.build(out, embed=embed)
        written = [path.read_bytes() for path in (out / "report").rglob("*") if path.is_file()]
        for content in written:
            assert b"<img src=x" not in content
            assert b"<script>alert" not in content
            assert b"</script><b>" not in content
            assert b"<i>account" not in content
            assert b"\xe2\x80\xa8" not in content  # ends a line of a script in older browsers
    assert encoded({"a": "</script>\u2028"}) == '{"a":"\\u003c/script>\\u2028"}'


def test_disagreement_is_one_minus_the_cosine_of_what_is_positive() -> None:
    a = np.array([[1, 0], [0, -5]], np.float32)
    b = np.array([[1, 1], [-2, 0]], np.float32)
    c = np.array([[0, 2], [0, 0]], np.float32)
    two = record(("hirescam", 1), ("gradcam", 1))
    assert pictures.disagreement(two, [a, b]) == pytest.approx(1 - 1 / math.sqrt(2))
    assert pictures.disagreement(two, [a, a * 7]) == pytest.approx(0, abs=1e-12)
    assert pictures.disagreement(two, [a, c]) == pytest.approx(1)
    three = record(("hirescam", 1), ("gradcam", 1), ("layercam", 1))
    mean = (2 * (1 - 1 / math.sqrt(2)) + 1) / 3
    assert pictures.disagreement(three, [a, b, c]) == pytest.approx(mean)


def test_only_maps_of_two_methods_for_one_class_can_disagree() -> None:
    a, nothing = np.eye(2, dtype=np.float32), -np.eye(2, dtype=np.float32)
    assert pictures.disagreement(record(("hirescam", 1)), [a]) is None
    assert pictures.disagreement(record(("hirescam", 1), ("gradcam", 2)), [a, a]) is None
    assert pictures.disagreement(record(("hirescam", 1), ("hirescam", 1)), [a, a]) is None
    assert pictures.disagreement(record(("hirescam", 1), ("gradcam", 1)), [a, nothing]) is None


def test_maps_of_different_grids_are_compared_on_the_view() -> None:
    coarse = np.array([[1, 0], [0, 0]], np.float32)
    fine = Geometry((8, 8), (8, 8), (0, 0, 8, 8)).on_view(coarse)
    two = record(("hirescam", 1), ("guided_hirescam", 1))
    assert pictures.disagreement(two, [coarse, fine]) == pytest.approx(0, abs=1e-6)


def test_coarse_maps_are_held_as_they_are_and_fine_ones_as_means() -> None:
    generator = np.random.default_rng(0)
    coarse = generator.normal(size=(14, 14)).astype(np.float32)
    assert pictures.reduced(coarse) is coarse
    fine = generator.normal(size=(64, 96)).astype(np.float32)
    means = fine.reshape(32, 2, 32, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(pictures.reduced(fine), means, atol=1e-6)
