"""`camcli study build`: what is shown, what the page reveals, and what the key keeps."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.study.conftest import LABEL


def build(cli: Callable, folder: Path, *arguments: object) -> tuple[str, dict, dict]:
    """The page, what it holds, and the key."""
    done = cli("study", "build", *arguments, "-o", folder)
    assert done.status == 0, done.stderr
    html = (folder / "study.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html)
    return html, json.loads(data), json.loads((folder / "key.json").read_bytes())


def decoded(uri: str) -> bytes:
    return base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))


@pytest.mark.parametrize(("pictures", "sides"), [(4, [2, 2]), (5, [2, 3])])
def test_each_side_has_every_method_equally_often(
    explained: Path, cli: Callable, tmp_path: Path, pictures: int, sides: list[int]
) -> None:
    for seed in range(3):
        options = ["--pictures", pictures, "--seed", seed]
        _, page, key = build(cli, tmp_path / str(seed), explained, *options)
        assert {i["id"] for i in page["items"]} == set(key["items"])
        assert sorted(Counter(i["left"] for i in key["items"].values()).values()) == sides
        assert all({i["left"], i["right"]} == {"A", "B"} for i in key["items"].values())


def test_what_is_left_and_right_is_what_the_key_says(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    """The two drawings of a picture trade places where the key says so."""
    _, one, key = build(cli, tmp_path / "a", explained, "--seed", "1")
    _, other, swapped = build(
        cli, tmp_path / "b", explained, "--seed", "1", "--methods", "eigencam,hirescam"
    )
    first = {key["items"][i["id"]]["key"]: i for i in one["items"]}
    for item in other["items"]:
        about = swapped["items"][item["id"]]
        before = first[about["key"]]
        same = key["items"][before["id"]]["left"] != about["left"]  # A and B are exchanged
        assert (item["images"] == before["images"]) == same
        assert sorted(item["images"]) == sorted(before["images"])


def test_the_page_names_no_method_no_model_no_file_and_no_side(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    html, page, key = build(cli, tmp_path / "study", explained, "--seed", "1")
    outside = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", html)
    names = ["hirescam", "eigencam", "squeezenet", "features", "coffee", "secret-methods", "out/",
             key["salt"], str(tmp_path), ".jpg"]  # fmt: skip
    for name in names:
        assert name.lower() not in outside.lower(), name
    for item in page["items"]:
        assert set(item) == {"id", "photo", "label", "images"}
        assert re.fullmatch(r"[0-9a-f]{16}", item["id"])
    assert "http:" not in outside
    assert "https:" not in outside


def test_images_tell_nothing_but_their_pixels(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    _, page, _ = build(cli, tmp_path / "study", explained)
    for item in page["items"]:
        contents = [decoded(uri) for uri in [item["photo"], *item["images"]]]
        opened = [Image.open(io.BytesIO(content)) for content in contents]
        assert len({picture.size for picture in opened}) == 1
        assert len({content[: content.index(b"\xff\xda")] for content in contents}) == 1
        for picture in opened:
            assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}
            assert not picture.getexif()


def test_ids_differ_although_the_seed_is_known(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    _, one, key = build(cli, tmp_path / "a", explained, "--seed", "1")
    _, other, again = build(cli, tmp_path / "b", explained, "--seed", "1")
    assert {i["id"] for i in one["items"]}.isdisjoint(i["id"] for i in other["items"])
    assert [i["images"] for i in one["items"]] == [i["images"] for i in other["items"]]
    assert key["salt"] != again["salt"]


def test_classes_are_asked_with_the_right_one_among_others(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    options = ["--protocol", "classes", "--choices", "3"]
    _, page, key = build(cli, tmp_path / "study", explained, *options)
    assert Counter(i["arm"] for i in key["items"].values()) == {"A": 5, "B": 5}
    for item in page["items"]:
        about = key["items"][item["id"]]
        assert set(item) == {"id", "choices", "images"}
        assert len(item["choices"]) == len(set(item["choices"])) == 3
        assert item["choices"][about["answer"]] == about["label"]
        assert about["label"].startswith(LABEL)
    assert len({about["answer"] for about in key["items"].values()}) > 1


def copied(run: Path, to: Path, convert: Callable[[dict], None]) -> Path:
    """Another model's run over the same photos."""
    shutil.copytree(run, to)
    for path in (to / "json").rglob("*.json"):
        record = json.loads(path.read_bytes())
        convert(record)
        path.write_text(json.dumps(record))
    return to


def test_models_are_compared_where_both_are_right(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    def wrong(record: dict) -> None:
        if record["key"] == "coffee.jpg":
            record["predictions"].reverse()

    other = copied(explained, tmp_path / "other", wrong)
    methods = ["--methods", "hirescam,eigencam"]
    done = cli("study", "build", explained, other, *methods, "-o", tmp_path / "a")
    assert "without --truth, pictures are those on which both predict the same" in done.stderr
    assert "1 left out because the predictions or photos differ" in done.stderr
    key = json.loads((tmp_path / "a" / "key.json").read_bytes())
    assert len(key["items"]) == 4
    rows = ["path,class_index"]
    for path in (explained / "json").rglob("*.json"):
        record = json.loads(path.read_bytes())
        shift = record["key"] == "helmet.jpg"
        index = record["predictions"][shift]["index"]
        rows.append(f'"{record["key"]}",{index}')
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    truth = ["--truth", f"csv:{tmp_path / 'truth.csv'}"]
    done = cli("study", "build", explained, other, *methods, *truth, "-o", tmp_path / "b")
    assert "2 left out because a prediction is wrong or its class not given" in done.stderr
    key = json.loads((tmp_path / "b" / "key.json").read_bytes())
    assert {"coffee.jpg", "helmet.jpg"}.isdisjoint(i["key"] for i in key["items"].values())
    assert len(key["items"]) == 3


def test_sides_that_draw_the_same_are_no_question(
    explained: Path, cli: Callable, tmp_path: Path
) -> None:
    same = copied(explained, tmp_path / "same", lambda record: None)
    arguments = ["--methods", "hirescam", "-o", tmp_path / "study"]
    done = cli("study", "build", explained, same, *arguments)
    assert done.status == 2
    assert done.stderr == (
        "camcli: on all 5 pictures the two sides draw the same map, so there is nothing to "
        "compare; give other methods or runs\n"
    )
    assert not (tmp_path / "study").exists()


def test_a_photo_that_is_gone_is_left_out(explained: Path, cli: Callable, tmp_path: Path) -> None:
    gone = copied(explained, tmp_path / "gone", lambda record: None)
    journal = (gone / "results.jsonl").read_text()
    (gone / "results.jsonl").write_text(journal.replace("/coffee.jpg", "/tea.jpg"))
    done = cli("study", "build", gone, "-o", tmp_path / "study")
    assert done.status == 0
    assert "tea.jpg: [Errno 2]" in done.stderr or "tea.jpg: No such file" in done.stderr
    assert "1 that cannot be read" in done.stderr
    assert "4 questions" in done.stderr


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["OUT", "--methods", "hirescam"], "--protocol pairs compares two sides; give two methods"),
    (["OUT", "--methods", "hirescam,gradcam"], "has no maps of 'gradcam'"),
    (["OUT", "OUT", "--methods", "hirescam"], "both sides of the study are the same maps"),
    (["OUT", "OUT"], "say which to show: --methods NAME"),
    (["OUT", "OUT", "OUT"], "a study compares two runs, or two methods"),
    (["OUT", "--truth", "x"], "--truth must be folder, label or csv:FILE, not 'x'"),
    (["OUT", "--truth", "csv:none.csv"], "--truth csv:none.csv cannot be read"),
    (["OUT", "--truth", "folder"], "no picture can be shown: 5 were predicted wrong"),
    (["OUT", "--protocol", "x"], "--protocol must be one of pairs, classes, not 'x'"),
    (["/nowhere"], "'/nowhere' holds no camcli run"),
])  # fmt: skip
def test_what_cannot_be_a_study_is_one_sentence(
    explained: Path, cli: Callable, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    given = [explained if a == "OUT" else a for a in arguments]
    done = cli("study", "build", *given, "-o", tmp_path / "study")
    assert (done.status, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_key_is_never_written_over(explained: Path, cli: Callable, tmp_path: Path) -> None:
    build(cli, tmp_path, explained)
    before = (tmp_path / "key.json").read_bytes()
    done = cli("study", "build", explained, "-o", tmp_path)
    assert done.status == 2
    assert "holds the key of a study" in done.stderr
    assert (tmp_path / "key.json").read_bytes() == before
