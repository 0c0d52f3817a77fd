"""The NPZ: raw signed maps that any NumPy opens without pickle, and that come back as they were."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from camcli.outputs import arrays
from camcli.records import Explanation, Target
from tests.outputs.made import CROPPED, a_cam, a_map, explanation


def three_maps() -> Explanation:
    """Two layers of one shape and one of another, between them."""
    return explanation([
        a_cam(a_map((3, 4), seed=1), layer="late"),
        a_cam(a_map((6, 8), seed=2), layer="early", target=Target(1, 5), score=2.5),
        a_cam(a_map((3, 4), seed=3), method="gradcam", layer="late", target=Target(None, 7)),
    ])  # fmt: skip


def loaded(content: bytes) -> dict[str, np.ndarray]:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        return dict(file)


def test_maps_are_raw_signed_and_in_the_order_of_the_record() -> None:
    made = three_maps()
    file = loaded(arrays.encode(made))
    assert file["cams"].dtype == np.float32
    np.testing.assert_array_equal(file["cams"], np.stack([made.cams[0].cam, made.cams[2].cam]))
    np.testing.assert_array_equal(file["cams_2"], made.cams[1].cam[None])
    assert (file["cams"] < 0).any()
    for cam, name, row in zip(made.cams, file["array"], file["row"], strict=True):
        np.testing.assert_array_equal(file[str(name)][row], cam.cam)


def test_every_map_says_what_it_belongs_to() -> None:
    file = loaded(arrays.encode(three_maps()))
    assert file["method"].tolist() == ["hirescam", "hirescam", "gradcam"]
    assert file["layer"].tolist() == ["late", "early", "late"]
    assert file["target_index"].tolist() == [1, 1, -1]
    assert file["target_against"].tolist() == [-1, 5, 7]
    assert file["score"].tolist() == [9.5, 2.5, 9.5]
    assert file["array"].tolist() == ["cams", "cams_2", "cams"]
    assert file["row"].tolist() == [0, 0, 1]


def test_the_geometry_is_there_to_draw_them_by() -> None:
    file = loaded(arrays.encode(three_maps()))
    assert file["image_size"].tolist() == [120, 60]
    assert file["view_size"].tolist() == [64, 48]
    assert file["crop_box"].tolist() == [20, 0, 100, 60]
    assert file["schema_version"] == 1


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    made = three_maps()
    (tmp_path / "a.npz").write_bytes(arrays.encode(made))
    maps, geometry = arrays.read(tmp_path / "a.npz")
    assert geometry == CROPPED
    for cam, read in zip(made.cams, maps, strict=True):
        np.testing.assert_array_equal(read, cam.cam)


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    cam = np.array([[np.nan, np.inf, -np.inf, 1]], np.float32)
    (tmp_path / "a.npz").write_bytes(arrays.encode(explanation([a_cam(cam)])))
    np.testing.assert_array_equal(arrays.read(tmp_path / "a.npz")[0][0], cam)


def test_the_same_explanation_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = arrays.encode(three_maps())
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: pytest.fail("the clock is in the file"))
    assert arrays.encode(three_maps()) == first


def test_one_changed_value_changes_the_bytes() -> None:
    cam = a_map()
    before = arrays.encode(explanation([a_cam(cam)]))
    cam[0, 0] = np.nextafter(cam[0, 0], np.float32(9))
    assert arrays.encode(explanation([a_cam(cam)])) != before
