"""`camcli export --coco`, read back by COCO's own tools."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from camcli.export import coco, reading
from camcli.images.geometry import Geometry
from camcli.images.region import HOT, hot_mask
from camcli.outputs import manifest
from camcli.outputs.results import results

pycocotools = pytest.importorskip("pycocotools.coco")
from pycocotools import mask as masks  # noqa: E402


def records(out: Path) -> dict[str, dict]:
    found = results(out, manifest.require_all(out))
    return {result.key: result.record() for result in found if result.explained}


def test_pycocotools_reads_boxes_masks_and_areas_that_agree(out: Path, cli: Callable) -> None:
    done = cli("export", out, "--coco")
    assert done == (0, "", f"camcli: 3 images: {out}/export/coco.json\n")
    data = pycocotools.COCO(out / "export" / "coco.json")
    known = records(out)
    assert len(data.imgs) == 3
    assert len(data.anns) == sum(
        entry["cam"]["status"] == "ok" for r in known.values() for entry in r["explanations"]
    )
    for annotation in data.anns.values():
        encoded = data.annToRLE(annotation)
        assert masks.area(encoded) == annotation["area"]
        assert masks.toBbox(encoded).tolist() == annotation["bbox"]
        image = data.imgs[annotation["image_id"]]
        assert annotation["segmentation"]["size"] == [image["height"], image["width"]]
        assert data.cats[annotation["category_id"]]["name"] == str(annotation["category_id"])


def test_a_box_is_the_records_own_to_a_pixel_of_picture_or_view(out: Path, cli: Callable) -> None:
    cli("export", out, "--coco")
    data = pycocotools.COCO(out / "export" / "coco.json")
    known = records(out)
    for image in data.imgs.values():
        record = known[image["key"]]
        left, top, right, bottom = record["view"]["crop_box"]
        pixel = max((right - left) / 64, (bottom - top) / 64, 1)
        found = data.imgToAnns[image["id"]]
        shown = [e for e in record["explanations"] if e["cam"]["status"] == "ok"]
        for annotation, entry in zip(found, shown, strict=True):
            x, y, width, height = annotation["bbox"]
            assert np.allclose([x, y, x + width, y + height], entry["hot_box"], atol=pixel)
            assert annotation["attributes"]["method"] == entry["method"]
            assert annotation["category_id"] == entry["target"]["index"]


def test_file_names_lead_from_the_file_to_the_upright_pictures(out: Path, cli: Callable) -> None:
    cli("export", out, "--coco")
    for image in json.loads((out / "export" / "coco.json").read_bytes())["images"]:
        with Image.open(out / "export" / image["file_name"]) as photo:
            assert ImageOps.exif_transpose(photo).size == (image["width"], image["height"])


def test_paths_may_start_elsewhere(explained: Path, cli: Callable, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(explained / "in")
    for root in (explained / "in", tmp_path / "link"):
        options = ["-o", tmp_path / "coco.json", "--relative-to", root]
        assert cli("export", explained / "out", "--coco", *options).status == 0
        images = json.loads((tmp_path / "coco.json").read_bytes())["images"]
        assert [image["file_name"] for image in images] == [image["key"] for image in images]


def test_a_higher_threshold_marks_less(out: Path, cli: Callable) -> None:
    def areas(*options: object) -> int:
        cli("export", out, "--coco", *options)
        content = json.loads((out / "export" / "coco.json").read_bytes())
        return sum(annotation["area"] for annotation in content["annotations"])

    assert areas("--threshold", 0.9) < areas() == areas("--threshold", HOT)


def test_a_contrast_is_a_category_of_its_own() -> None:
    categories = coco.Categories(["cat", "dog"])
    contrast = {"index": 1, "against": 0, "label": "dog - cat"}
    against = {"index": None, "against": 0, "label": "- cat"}
    plain = {"index": 1, "against": None, "label": "dog"}
    assert [categories.id(t) for t in (contrast, plain, against, contrast)] == [2, 1, 3, 2]
    assert [c["name"] for c in categories.listed()] == ["cat", "dog", "dog - cat", "- cat"]


@pytest.mark.parametrize("drawing", ["1", "0", "01/10", "10/11", "001/101/111"])
def test_run_lengths_are_those_of_pycocotools(drawing: str) -> None:
    mask = np.array([[c == "1" for c in row] for row in drawing.split("/")])
    plain = {"size": list(mask.shape), "counts": coco.run_lengths(mask)}
    theirs = masks.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert masks.frPyObjects(plain, *mask.shape) == theirs


def test_a_mask_is_the_largest_component_where_its_pixels_centres_are() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[1, 1:3] = 1
    cam[3, 0] = 5 / 6
    geometry = Geometry((20, 12), (4, 4), (4.0, 2.0, 12.0, 10.0))  # 2 x 2 pixels a cell
    found = hot_mask(cam, geometry)
    expected = np.zeros((12, 20), bool)
    expected[4:6, 6:10] = True
    assert np.array_equal(found, expected)
    padded = np.zeros((8, 8), np.float32)
    padded[7, 3] = 1
    assert not hot_mask(padded, Geometry((8, 4), (8, 8), (0.0, -2.0, 8.0, 6.0))).any()


class _Repeated:
    """One result many times over, as a long run would give them."""

    def __init__(self, out: Path, count: int) -> None:
        self.out, self.count = out, count

    def __call__(self, *_: object) -> object:
        (one, *_) = [r for r in results(self.out, manifest.require_all(self.out)) if r.explained]
        return (one for _ in range(self.count))


def peak(out: Path, count: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> int:
    monkeypatch.setattr(reading, "results", _Repeated(out, count))
    run = reading.Reading(out, {"json", "npz"}, print)
    with open(tmp_path / "coco.json", "wb") as file:
        tracemalloc.start()
        coco.write(run, file, tmp_path, HOT, lambda: None)
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    content = json.loads((tmp_path / "coco.json").read_bytes())
    assert len(content["images"]) == count
    assert [a["id"] for a in content["annotations"]] == [*range(1, len(content["annotations"]) + 1)]
    return highest


def test_memory_does_not_grow_with_the_run(
    out: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    few, many = (peak(out, count, monkeypatch, tmp_path) for count in (10, 150))
    assert many < few + 100_000
    assert BytesIO((tmp_path / "coco.json").read_bytes()).getbuffer().nbytes > 5 * 100_000
