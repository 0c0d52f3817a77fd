"""`camcli export --fiftyone`: what FiftyOne documents of its datasets, and FiftyOne itself."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import numpy as np
import pytest
from PIL import Image

from camcli.export.fiftyone import heat
from camcli.export.leftovers import sweep_directories
from camcli.images.geometry import Geometry

TEXT, NUMBER = {"type": "string"}, {"type": "number"}
SHARE = {"type": "number", "minimum": 0, "maximum": 1}
HEATMAP = {
    "type": "object",
    "required": ["_cls", "map_path", "range"],
    "properties": {
        "_cls": {"const": "Heatmap"}, "map_path": TEXT, "label": TEXT, "score": NUMBER,
        "range": {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2},
    },
}  # fmt: skip
BOXES = {
    "type": "object",
    "required": ["_cls", "detections"],
    "properties": {
        "_cls": {"const": "Detections"},
        "detections": {"items": {"properties": {
            "_cls": {"const": "Detection"}, "label": TEXT,
            "bounding_box": {"type": "array", "items": SHARE, "minItems": 4, "maxItems": 4},
        }, "required": ["_cls", "label", "bounding_box"]}},
    },
}  # fmt: skip
SAMPLE = {
    "type": "object",
    "required": ["filepath", "tags", "metadata", "hirescam", "layercam_2"],
    "properties": {
        "filepath": TEXT, "tags": {"type": "array"}, "_media_type": {"const": "image"},
        "metadata": {"properties": {"_cls": {"const": "ImageMetadata"}}},
        "key": TEXT, "predicted": {"properties": {"_cls": {"const": "Classification"}}},
    },
    "patternProperties": {"^(hirescam|layercam)(_2)?$": HEATMAP, "_box$": BOXES},
    "additionalProperties": False,
}  # fmt: skip


def samples(folder: Path) -> list[dict]:
    found = json.loads((folder / "samples.json").read_bytes())["samples"]
    assert isinstance(found, list)
    return found


def test_the_directory_is_what_fiftyone_documents(out: Path, cli: Callable) -> None:
    folder = out / "export" / "fiftyone"
    assert cli("export", out, "--fiftyone") == (0, "", f"camcli: 3 samples: {folder}\n")
    assert "version" not in json.loads((folder / "metadata.json").read_bytes())
    assert len(samples(folder)) == 3
    for sample in samples(folder):
        jsonschema.validate(sample, SAMPLE)
        assert (folder / sample["filepath"]).is_file()
        metadata = sample["metadata"]
        for name, field in sample.items():
            if isinstance(field, dict) and field["_cls"] == "Heatmap":
                # FiftyOne makes paths absolute of the fields that have a folder below `fields`.
                assert field["map_path"].startswith(f"fields/{name}/")
                with Image.open(folder / field["map_path"]) as heatmap:
                    assert heatmap.mode == "L"
                    shape = heatmap.width / heatmap.height
                    assert shape == pytest.approx(metadata["width"] / metadata["height"], rel=0.03)
                    assert field["status"] != "ok" or np.asarray(heatmap).max() > 250


def test_an_earlier_export_is_replaced_and_nothing_else(out: Path, cli: Callable) -> None:
    folder = out / "export" / "fiftyone"
    cli("export", out, "--fiftyone")
    (folder / "fields" / "old").mkdir()
    assert cli("export", out, "--fiftyone").status == 0
    assert not (folder / "fields" / "old").exists()
    assert os.listdir(out / "export") == ["fiftyone"]
    (folder / "metadata.json").write_text("{}")
    done = cli("export", out, "--fiftyone")
    assert (done.status, done.stderr) == (
        1, f"camcli: '{folder}' is no FiftyOne export of camcli's; choose another with -o\n"
    )  # fmt: skip


def test_what_a_killed_export_was_writing_is_removed_and_that_of_a_living_one_is_not(
    out: Path, cli: Callable
) -> None:
    cli("export", out, "--fiftyone")
    killed, living = (out / "export" / f".camcli-tmp-{n}-fiftyone" for n in (1, 2))
    replaced = out / "export" / ".camcli-tmp-1-fiftyone-before"
    for folder in (killed, living, replaced):
        (folder / "fields").mkdir(parents=True)
    (out / "export" / ".camcli-tmp-1-0").write_text("half a CSV")
    held = os.open(living, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert cli("export", out, "--fiftyone").status == 0
        assert sorted(os.listdir(out / "export")) == [living.name, "fiftyone"]
    finally:
        os.close(held)


def test_an_export_that_was_killed_while_it_took_its_place_is_put_back(
    out: Path, cli: Callable
) -> None:
    folder = out / "export" / "fiftyone"
    cli("export", out, "--fiftyone")
    folder.rename(out / "export" / ".camcli-tmp-1-fiftyone-before")
    sweep_directories(folder)
    assert folder.is_dir()
    assert os.listdir(out / "export") == ["fiftyone"]


def test_a_heatmap_covers_the_whole_picture_and_is_hot_where_the_map_is() -> None:
    cam = np.zeros((4, 4), np.float32)
    cam[0, 3] = 2
    levels = heat(cam, Geometry((400, 200), (80, 80), (100.0, 0.0, 300.0, 200.0)))
    assert levels.shape == (80, 160)  # two fifths: as many pixels as the network saw
    assert levels[:, :40].max() == levels[:, 120:].max() == 0  # it saw nothing there
    row, column = np.unravel_index(int(levels.argmax()), levels.shape)
    assert (row < 10, 110 <= column < 120, levels.max()) == (True, True, 255)
    assert heat(-cam - 1, Geometry((4, 4), (4, 4), (0, 0, 4, 4))).max() == 0


@pytest.fixture
def fiftyone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("FIFTYONE_DATABASE_DIR", str(tmp_path / "db"))
    return pytest.importorskip("fiftyone", reason="FiftyOne is not installed (optional)")


def is_as_exported(sample: Any) -> None:
    assert Path(sample.filepath).is_file()
    assert sample.media_type == "image"
    assert 0 < sample.predicted.confidence <= 1
    assert sample.hirescam.get_map().max() > 250
    assert sample.hirescam.range == [0, 255]
    assert len(sample.layercam_2_box.detections) <= 1


def test_fiftyones_importer_reads_it_without_a_database(
    fiftyone: ModuleType, out: Path, cli: Callable
) -> None:
    cli("export", out, "--fiftyone")
    folder = out / "export" / "fiftyone"
    importer = fiftyone.utils.data.FiftyOneDatasetImporter(dataset_dir=str(folder))
    # What Dataset.from_dir does where metadata.json has no version.
    assert importer._is_legacy_format_data()
    with importer._to_legacy_importer() as reader:
        assert reader.get_dataset_info()["camcli_version"]
        found = list(reader)
    assert len(found) == 3
    for sample in found:
        is_as_exported(sample)


def test_fiftyone_imports_it(fiftyone: ModuleType, out: Path, cli: Callable) -> None:
    try:
        fiftyone.list_datasets()
    except Exception as error:  # it wants a MongoDB, which not every system can start
        pytest.skip(f"FiftyOne has no database here ({type(error).__name__})")
    cli("export", out, "--fiftyone")
    folder = out / "export" / "fiftyone"
    kind = fiftyone.types.FiftyOneDataset
    dataset = fiftyone.Dataset.from_dir(dataset_dir=str(folder), dataset_type=kind)
    assert len(dataset) == 3
    for sample in dataset:
        is_as_exported(sample)
