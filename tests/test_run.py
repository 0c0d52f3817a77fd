"""A run and the ones after it: what is left to do, what stays, what is drawn again."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import NoInputsError, OutputError, UsageError
from camcli.images import decode
from camcli.outputs.record import Record
from camcli.outputs.redraw import Redraw, Redrawn
from camcli.records import Failure
from camcli.run import Run, Summary

SAMPLES = Path(__file__).parent.parent / "samples"
# A small network without weights: what is tested here does not depend on what it says.
SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2",
         "isolate": False}  # fmt: skip


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Five photos, one of them in a folder of its own."""
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    for sample in sorted(SAMPLES.glob("*.jpg")):
        shutil.copy(sample, folder)
    (folder / "rocket.jpg").rename(folder / "sub" / "rocket.jpg")
    return folder


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def a_run(inputs: Path | Iterable[Path], out: Path, **settings: object) -> Run:
    """The run of `camcli explain INPUTS -o OUT --NAME VALUE…`."""
    named = [inputs] if isinstance(inputs, Path) else inputs
    chosen, origins = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    asked = {name for name, origin in origins.items() if origin != "default"}
    return Run(job_of(chosen, tuple(map(str, named)), asked))


def finished(
    inputs: Path | Iterable[Path], out: Path, **settings: object
) -> tuple[Summary, list[Record]]:
    run = a_run(inputs, out, **settings)
    records = list(run.records())
    return run.summary, records


def files(out: Path, kind: str = "") -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted((out / kind).rglob("*"))
        if path.is_file()
    }


def journal(out: Path) -> list[Record]:
    return [json.loads(line) for line in (out / "results.jsonl").read_bytes().splitlines()]


def manifest(out: Path) -> Record:
    content: Record = json.loads((out / "run.json").read_bytes())
    return content


def test_every_picture_gets_a_record_an_npz_an_overlay_and_a_line(images: Path, out: Path) -> None:
    summary, records = finished(images, out)
    keys = ["chelsea.jpg", "coffee.jpg", "helmet.jpg", "photographer.jpg", "sub/rocket.jpg"]
    assert (summary.found, summary.done, summary.failed) == (5, 5, 0)
    assert [record["key"] for record in records] == keys
    assert [line["key"] for line in journal(out)] == keys
    for record in records:
        key = record["key"]
        assert json.loads((out / "json" / f"{key}.json").read_bytes()) == record
        with np.load(out / "maps" / f"{key}.npz", allow_pickle=False) as maps:
            assert maps["cams"].shape == (1, 3, 3)
        with Image.open(out / record["explanations"][0]["overlay"]) as overlay:
            assert overlay.size == (record["width"], record["height"])
    assert len(files(out)) == 3 * 5 + len([".camcli.lock", "run.json"])


def test_run_json_is_what_an_auditor_needs(images: Path, out: Path) -> None:
    summary, records = finished(images, out, method=["hirescam,gradcam"])
    run = manifest(out)
    assert run["status"] == "done"
    assert run["camcli_version"]
    assert run["counts"]["done"] == summary.done == 5
    assert run["timings"]["model_seconds"] > 0 < run["timings"]["explain_seconds"]
    assert run["model"]["name"] == "squeezenet1_1"
    assert run["batch_size"] == 2
    assert run["methods"] == [
        {"name": name, "needs": "gradient", "units": "score", "scope": "layer"}
        for name in ("hirescam", "gradcam")
    ]
    assert run["layers"][0]["name"] == records[0]["explanations"][0]["layer"]
    assert run["preprocessing"]["size"] == [64, 64]
    assert run["config_hash"] == records[0]["config_hash"]
    assert run["versions"]["torch"]
    assert len(run["labels"]) == 1000
    assert run["verdict"] == summary.verdict
    assert len(run["verdict"]) >= 2


def test_a_second_run_finds_everything_done_and_touches_nothing(images: Path, out: Path) -> None:
    finished(images, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    summary, records = finished(images, out)
    assert (summary.done, summary.already_done, records) == (0, 5, [])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_new_pictures_are_explained_and_old_ones_left(images: Path, out: Path) -> None:
    finished(images, out)
    shutil.copy(images / "coffee.jpg", images / "a new one.jpg")
    summary, records = finished(images, out)
    assert (summary.done, summary.already_done) == (1, 5)
    assert [record["key"] for record in records] == ["a new one.jpg"]


def test_another_data_set_under_the_same_keys_is_explained_anew_and_counted(
    images: Path, out: Path, tmp_path: Path
) -> None:
    finished(images, out)
    shutil.copytree(images, tmp_path / "moved", copy_function=shutil.copy2)
    summary, _ = finished(tmp_path / "moved", out)
    assert (summary.already_done, summary.done, summary.changed) == (5, 0, 0)
    (tmp_path / "moved" / "coffee.jpg").unlink()
    shutil.copy(images / "chelsea.jpg", tmp_path / "moved" / "coffee.jpg")
    shutil.copy(images / "chelsea.jpg", tmp_path / "moved" / "new.jpg")
    summary, _ = finished(tmp_path / "moved", out)
    assert (summary.already_done, summary.done, summary.changed) == (4, 2, 1)
    assert manifest(out)["counts"]["changed"] == 1


def test_a_link_in_place_of_an_output_is_replaced_and_not_followed(
    images: Path, out: Path, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "elsewhere").mkdir()
    (out / "json").mkdir(parents=True)
    (out / "json" / "coffee.jpg.json").symlink_to(tmp_path / "precious")
    (out / "json" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is not camcli's"):
        finished(images, out)
    (out / "json").rename(tmp_path / "links")
    finished(images, out)
    shutil.rmtree(out / "json")
    (tmp_path / "links").rename(out / "json")
    for path in images.rglob("*.jpg"):
        os.utime(path)
    finished(images, out)
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (out / "json" / "coffee.jpg.json").is_symlink()
    # A folder that is a link was put there by whom the output belongs to.
    assert (tmp_path / "elsewhere" / "rocket.jpg.json").exists()


def test_a_run_that_was_broken_off_goes_on_to_the_same_bytes(images: Path, tmp_path: Path) -> None:
    finished(images, tmp_path / "whole")
    for taken in range(1, 5):
        out = tmp_path / f"broken-{taken}"
        records = a_run(images, out).records()
        list(itertools.islice(records, taken))
        records.close()
        assert manifest(out)["status"] == "stopped"
        assert len(journal(out)) == taken
        summary, _ = finished(images, out)
        assert (summary.already_done, summary.done) == (taken, 5 - taken)
        for kind in ("json", "maps", "overlays"):
            assert files(out, kind) == files(tmp_path / "whole", kind)


def test_a_journal_torn_by_a_kill_costs_one_picture(images: Path, out: Path) -> None:
    finished(images, out)
    path = out / "results.jsonl"
    path.write_bytes(path.read_bytes()[:-7])
    summary, _ = finished(images, out)
    assert (summary.already_done, summary.done) == (4, 1)
    assert [line["key"] for line in journal(out)][-1] == "sub/rocket.jpg"


def test_a_picture_that_was_only_touched_is_explained_again_to_the_same_bytes(
    images: Path, out: Path
) -> None:
    finished(images, out)
    before = files(out, "maps")
    os.utime(images / "coffee.jpg", ns=(1, 1))
    summary, _ = finished(images, out)
    assert (summary.done, summary.already_done) == (1, 4)
    assert files(out, "maps") == before


def test_outputs_of_a_picture_that_changed_give_way_to_the_new_ones(
    images: Path, out: Path
) -> None:
    """The real network: the new photo has another class, and so its overlay another name."""
    real = {"model": "efficientnet_lite0", "weights": "DEFAULT", "size": None}
    finished(images / "coffee.jpg", out, **real)
    (before,) = files(out, "overlays")
    shutil.copy(images / "chelsea.jpg", images / "coffee.jpg")
    _, (record,) = finished(images / "coffee.jpg", out, **real)
    assert list(files(out, "overlays")) == [record["explanations"][0]["overlay"]] != [before]


def test_a_picture_that_can_no_longer_be_read_leaves_no_maps_behind(
    images: Path, out: Path
) -> None:
    finished(images / "coffee.jpg", out)
    (images / "coffee.jpg").write_bytes(b"no picture any more")
    summary, (record,) = finished(images / "coffee.jpg", out)
    assert (summary.failed, record["status"]) == (1, "error")
    assert files(out, "maps") == files(out, "overlays") == {}


def test_a_picture_that_is_out_of_reach_keeps_its_maps(images: Path, out: Path) -> None:
    """A share that is not mounted tonight: the list names files that are not there."""
    listed = {"files_from": [str(images / "list")]}
    (images / "list").write_text(str(images / "coffee.jpg"))
    finished([], out, **listed)
    before = files(out, "maps") | files(out, "overlays")
    (images / "coffee.jpg").rename(images / "away")
    assert finished([], out, **listed)[0].failed == 1
    assert files(out, "maps") | files(out, "overlays") == before
    (images / "away").rename(images / "coffee.jpg")
    assert finished([], out, **listed)[0].done == 1


def test_a_picture_that_vanishes_before_it_is_read_is_one_failure(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is tried again once it is back, whether or not it was before its line was written."""
    read, coffee = decode._read, images / "coffee.jpg"

    def gone_for_a_moment(path: str, *limits: object) -> object:
        if path == str(coffee):
            raise FileNotFoundError(2, "No such file or directory")
        return read(path, *limits)

    monkeypatch.setattr(decode, "_read", gone_for_a_moment)
    summary, records = finished(images, out)
    assert (summary.done, summary.failed) == (4, 1)
    (failure,) = (record for record in records if record["status"] == "error")
    assert failure["error"]["message"] == "No such file or directory"
    monkeypatch.undo()
    summary, _ = finished(images, out)
    assert (summary.done, summary.already_done) == (1, 4)


def test_a_picture_that_changes_while_a_run_works_is_explained_again_by_the_next(
    images: Path, out: Path
) -> None:
    run = a_run(images, out)
    for record in run.records():
        if record["key"] == "chelsea.jpg":
            shutil.copy(images / "helmet.jpg", images / "chelsea.jpg")
    summary, (record,) = finished(images, out)
    assert (summary.done, summary.already_done) == (1, 4)
    assert record["key"] == "chelsea.jpg"
    assert record["sha256"] == hashlib.sha256((images / "helmet.jpg").read_bytes()).hexdigest()


def test_outputs_of_a_picture_that_is_gone_stay(images: Path, out: Path) -> None:
    finished(images, out)
    before = files(out)
    (images / "coffee.jpg").unlink()
    summary, _ = finished(images, out)
    assert (summary.found, summary.already_done) == (4, 4)
    assert files(out) == before


def test_final_failures_are_reported_and_not_repeated(images: Path, out: Path) -> None:
    (images / "broken.jpg").write_bytes(b"no picture")
    assert finished(images, out)[0].failed == 1
    summary, _ = finished(images, out)
    assert (summary.failed, summary.failed_earlier, summary.already_done) == (0, 1, 5)
    summary, _ = finished(images, out, retry_failed="true")
    assert (summary.failed, summary.failed_earlier, summary.already_done) == (1, 0, 5)


def test_a_failure_is_tried_again_once_its_file_has_changed(images: Path, out: Path) -> None:
    (images / "broken.jpg").write_bytes(b"no picture")
    finished(images, out)
    shutil.copy(images / "coffee.jpg", images / "broken.jpg")
    summary, _ = finished(images, out)
    assert (summary.done, summary.failed, summary.failed_earlier) == (1, 0, 0)
    assert len(journal(out)) == 7


def test_failures_that_may_pass_are_tried_again_by_the_next_run(
    images: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, faulty = os.open, str(images / "coffee.jpg")

    def unreliable(path: str, *rest: int) -> int:
        if path == faulty:
            raise OSError(5, "Input/output error")
        return opened(path, *rest)

    monkeypatch.setattr(os, "open", unreliable)
    summary, records = finished(images, out)
    assert (summary.done, summary.failed) == (4, 1)
    (failure,) = (record for record in records if record["status"] == "error")
    assert failure["error"]["transient"]
    monkeypatch.undo()
    summary, _ = finished(images, out)
    assert (summary.done, summary.already_done, summary.failed_earlier) == (1, 4, 0)


def test_a_picture_without_a_target_fails_alone(images: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "targets.csv").write_text("path,label\ncoffee.jpg,espresso\nsub/rocket.jpg,657\n")
    target = f"csv:{tmp_path / 'targets.csv'}"
    summary, records = finished(images, out, target=target, labels="imagenet1k")
    assert (summary.done, summary.failed) == (2, 3)
    by_key = {record["key"]: record for record in records}
    assert by_key["coffee.jpg"]["explanations"][0]["target"]["label"] == "espresso"
    assert by_key["sub/rocket.jpg"]["explanations"][0]["target"]["index"] == 657
    assert "no row for 'chelsea.jpg'" in by_key["chelsea.jpg"]["error"]["message"]
    assert by_key["chelsea.jpg"]["error"]["stage"] == "target"


def test_a_resumed_run_keeps_its_batch_size(images: Path, out: Path) -> None:
    finished(images, out, limit="2")
    finished(images, out, batch_size=None)
    assert manifest(out)["batch_size"] == 2
    assert len(journal(out)) == 5


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": ["gradcam"]}, "method"),
        ({"target": "top:2"}, "target"),
        ({"layer": ["features.9"]}, "layer"),
        ({"batch_size": "3"}, "batch size"),
        ({"fit": "squash"}, "preprocessing"),
        ({"write": ["npz"]}, "write"),
        ({"model": "squeezenet1_0"}, "model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_maps_do_not_go_into_the_same_directory(
    images: Path, out: Path, change: dict[str, object], named: str
) -> None:
    finished(images, out, limit="1")
    before = files(out)
    with pytest.raises(UsageError, match=f"made with another .*{named}.*with -o.*--overwrite"):
        finished(images, out, **change)
    assert files(out) == before


@pytest.mark.parametrize(
    ("kinds", "written"),
    [("json", {"json"}), ("npz", {"maps"}), ("overlay", {"overlays"}),
     ("json,npz", {"json", "maps"})],
)  # fmt: skip
def test_only_what_was_asked_for_is_written(
    images: Path, out: Path, kinds: str, written: set[str]
) -> None:
    finished(images, out, write=[kinds])
    assert {path.name for path in out.iterdir() if path.is_dir()} == written
    assert len(journal(out)) == 5
    assert finished(images, out, write=[kinds])[0].already_done == 5


def test_overlays_can_be_added_to_a_run_without_explaining_again(images: Path, out: Path) -> None:
    finished(images, out, write=["json,npz"])
    before = files(out, "maps")
    summary, _ = finished(images, out)
    assert (summary.done, summary.already_done, summary.redrawn) == (0, 5, 5)
    assert files(out, "maps") == before
    assert len(files(out, "overlays")) == 5


def test_overlays_that_one_run_left_out_are_drawn_by_the_next_that_wants_them(
    images: Path, out: Path
) -> None:
    rocket = images / "sub" / "rocket.jpg"
    shutil.move(rocket, images.parent)
    finished(images, out, colormap="viridis")
    shutil.move(images.parent / "rocket.jpg", rocket)
    finished(images, out, write=["json", "npz"])
    assert len(files(out, "overlays")) == 4
    assert manifest(out)["drawing"]["colormap"] == "viridis"
    assert finished(images, out)[0].redrawn == 5
    assert len(files(out, "overlays")) == 5
    assert finished(images, out)[0].redrawn == 0
    assert manifest(out)["drawing"]["colormap"] == "viridis"


def test_a_redraw_that_was_stopped_is_not_claimed_whatever_else_is_left(
    images: Path, out: Path
) -> None:
    finished(images, out)
    shutil.copy(images / "coffee.jpg", images / "new.jpg")
    run = a_run(images, out, colormap="jet")
    pictures = Redraw.pictures

    def interrupted(self: Redraw) -> Iterator[Redrawn | Failure]:
        for picture in pictures(self):
            run.stop("SIGTERM")
            yield picture

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Redraw, "pictures", interrupted)
        assert list(run.records()) == []
    assert manifest(out)["drawing"]["colormap"] == "inferno"
    summary, records = finished(images, out, colormap="jet")
    assert (summary.redrawn, len(records)) == (5, 1)
    assert manifest(out)["drawing"]["colormap"] == "jet"


def test_a_changed_drawing_is_drawn_again_and_the_maps_are_left(images: Path, out: Path) -> None:
    finished(images, out)
    maps, inferno = files(out, "maps"), files(out, "overlays")
    summary, _ = finished(images, out, colormap="viridis")
    assert (summary.done, summary.redrawn) == (0, 5)
    viridis = files(out, "overlays")
    assert viridis.keys() == inferno.keys()
    assert all(viridis[name] != inferno[name] for name in viridis)
    assert files(out, "maps") == maps
    assert finished(images, out, colormap="viridis")[0].redrawn == 0
    assert finished(images, out)[0].redrawn == 0  # not asked for: stays as it is
    finished(images, out, colormap="inferno")
    assert files(out, "overlays") == inferno


def test_another_format_takes_the_place_of_the_one_before(images: Path, out: Path) -> None:
    finished(images, out)
    finished(images, out, overlay_format="png")
    records = [json.loads(content) for content in files(out, "json").values()]
    named = sorted(record["explanations"][0]["overlay"] for record in records)
    assert sorted(files(out, "overlays")) == named
    assert all(name.endswith(".png") for name in named)


def test_overwriting_clears_what_another_run_left(images: Path, out: Path) -> None:
    finished(images, out)
    summary, _ = finished(images / "coffee.jpg", out, method=["gradcam"], overwrite="true")
    assert (summary.done, summary.already_done) == (1, 0)
    assert len(files(out, "maps")) == len(files(out, "overlays")) == len(journal(out)) == 1


@pytest.mark.parametrize(
    "mistake", [{"layer": ["bn9"]}, {"method": ["hirescan"]}, {"model": "resnet51"}], ids=str
)
def test_a_mistake_beside_overwrite_costs_nothing(
    images: Path, out: Path, mistake: dict[str, object]
) -> None:
    finished(images, out)
    before = files(out)
    with pytest.raises(UsageError):
        finished(images, out, overwrite="true", **mistake)
    assert files(out) == before


@pytest.mark.parametrize("name", ["json", "maps", "overlays", "results.jsonl"])
def test_what_is_called_like_ours_and_is_not_is_left_alone(images: Path, name: str) -> None:
    if name == "results.jsonl":
        (images / name).write_text("mine")
    else:
        shutil.copytree(images / "sub", images / name)
    before = files(images)
    for overwrite in ("false", "true"):
        with pytest.raises(OutputError, match=f"{name}' is not camcli's; choose another"):
            finished(images, images, overwrite=overwrite)
    assert files(images) == before


def test_a_run_told_to_stop_while_it_draws_again_stops(images: Path, out: Path) -> None:
    finished(images, out)
    before = manifest(out)
    run = a_run(images, out, colormap="jet")
    run.stop("SIGTERM")
    assert list(run.records()) == []
    assert run.summary.redrawn == 1
    assert manifest(out) == before
    assert finished(images, out, colormap="jet")[0].redrawn == 5


def test_nothing_is_written_into_somebody_elses_folder(images: Path, out: Path) -> None:
    out.mkdir()
    (out / "run.json").write_text('{"experiment": 7}')
    for overwrite in ("false", "true"):
        with pytest.raises(OutputError, match="is not camcli's"):
            finished(images, out, overwrite=overwrite)
    assert [path.name for path in out.iterdir()] == ["run.json"]


def test_a_run_into_the_pictures_own_folder_does_not_feed_on_itself(images: Path) -> None:
    assert finished(images, images)[0].done == 5
    summary, _ = finished(images, images)
    assert (summary.done, summary.already_done) == (0, 5)


def test_nothing_to_explain_is_said_before_anything_is_loaded(tmp_path: Path, out: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    with pytest.raises(NoInputsError, match=r"no pictures found \(1 other files ignored\)"):
        a_run(tmp_path / "notes", out)
    assert not out.exists()
