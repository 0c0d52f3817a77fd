"""What counts as an input, in which order, and under which key: DESIGN's rules one by one."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from camcli.errors import UsageError
from camcli.images.discover import EXTENSIONS, Inputs, Walk
from camcli.outputs import manifest

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Empty files under a folder that is also the working directory."""

    def plant(*names: str | bytes) -> Path:
        for name in names:
            path = os.path.join(os.fsencode(tmp_path), os.fsencode(name))
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb"):
                pass
        return tmp_path

    monkeypatch.chdir(tmp_path)
    return plant


def keys(*roots: object, **more: object) -> list[str]:
    return [ref.key for ref in Walk(Inputs(tuple(map(str, roots)), **more)).refs()]


def paths(*roots: object, **more: object) -> list[str]:
    return [ref.path for ref in Walk(Inputs(tuple(map(str, roots)), **more)).refs()]


def ignored(*roots: object, **more: object) -> int:
    walk = Walk(Inputs(tuple(map(str, roots)), **more))
    list(walk.refs())
    return walk.ignored


def listed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Pipe these bytes into stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_every_image_extension_counts_in_any_case(tree: Tree) -> None:
    names = [f"{n}{ext}" for n, ext in enumerate(sorted(EXTENSIONS))]
    names += [f"upper{ext.upper()}" for ext in EXTENSIONS]
    tree(*(f"in/{name}" for name in names))
    assert {".jpg", ".jpeg", ".png", ".tif", ".webp", ".gif", ".bmp"} <= EXTENSIONS
    assert sorted(keys("in")) == sorted(names)


def test_other_files_are_ignored_and_counted(tree: Tree) -> None:
    tree("in/a.jpg", "in/notes.txt", "in/b.jpg.part", "in/jpg", "in/sub/c.mp4")
    assert keys("in") == ["a.jpg"]
    assert ignored("in") == 4


def test_hidden_files_and_folders_are_skipped(tree: Tree) -> None:
    tree("in/a.jpg", "in/.b.jpg", "in/._a.jpg", "in/.thumbnails/c.jpg")
    assert keys("in") == ["a.jpg"]


def test_names_are_sorted_by_their_bytes_and_folders_walked_depth_first(tree: Tree) -> None:
    tree("in/b/2.jpg", "in/a.jpg", "in/b/1.jpg", "in/c.jpg", "in/B.jpg", "in/é.jpg", "in/10.jpg")
    assert keys("in") == ["10.jpg", "B.jpg", "a.jpg", "b/1.jpg", "b/2.jpg", "c.jpg", "é.jpg"]


def test_folders_are_listed_only_when_the_walk_reaches_them(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("in/a.jpg", "in/b/1.jpg", "in/c/2.jpg")
    scan, scanned = os.scandir, []

    def counted(folder: str) -> object:
        scanned.append(folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", counted)
    refs = Walk(Inputs(("in",))).refs()
    assert scanned == []
    assert next(refs).key == "a.jpg"
    assert scanned == ["in"]
    assert next(refs).key == "b/1.jpg"
    assert scanned == ["in", "in/b"]


def test_an_output_directory_of_ours_is_passed_over(tree: Tree) -> None:
    folder = tree("in/a.jpg", "in/out/overlays/a.jpg.hirescam.1.jpg")
    assert keys("in") == ["a.jpg", "out/overlays/a.jpg.hirescam.1.jpg"]
    manifest.write(folder / "in" / "out", {"camcli_version": "0.1.0"})
    assert keys("in") == ["a.jpg"]


def test_a_folder_with_somebody_elses_run_json_is_walked(tree: Tree) -> None:
    folder = tree("in/lab/a.jpg")
    (folder / "in" / "lab" / "run.json").write_text(json.dumps({"run": 7, "lab": "north"}))
    assert keys("in") == ["lab/a.jpg"]


def test_a_run_written_beside_its_pictures_does_not_explain_its_own_overlays(tree: Tree) -> None:
    folder = tree("in/a.jpg", "in/overlays/a.jpg.hirescam.1.jpg", "in/b/overlays/c.jpg")
    manifest.write(folder / "in", {"camcli_version": "0.1.0"})
    assert keys("in") == ["a.jpg", "b/overlays/c.jpg"]
    assert keys("in/overlays") == ["a.jpg.hirescam.1.jpg"]  # named, hence wanted


def test_a_file_that_is_named_is_always_tried(tree: Tree) -> None:
    tree("notes.txt", ".hidden.jpg", "noextension")
    assert keys("notes.txt", ".hidden.jpg", "noextension") == [
        "notes.txt", ".hidden.jpg", "noextension"]  # fmt: skip


def test_a_picture_that_is_not_there_is_tried_and_a_folder_that_is_not_there_is_an_error(
    tree: Tree,
) -> None:
    tree("a.jpg")
    assert keys("gone.jpg", "a.jpg") == ["gone.jpg", "a.jpg"]
    with pytest.raises(UsageError, match="no file or folder 'phtos'"):
        keys("phtos")


@pytest.mark.parametrize("spelling", ["in", "in/", "./in", "in//", "x/../in", "absolute"])
def test_one_root_gives_the_same_keys_however_it_is_spelled(tree: Tree, spelling: str) -> None:
    folder = tree("in/a.jpg", "in/sub/b.jpg", "x/c.jpg")
    root = folder / "in" if spelling == "absolute" else spelling
    assert keys(root) == ["a.jpg", "sub/b.jpg"]


def test_the_working_directory_can_be_the_root(tree: Tree) -> None:
    tree("a.jpg", "sub/b.jpg")
    assert keys(".") == ["a.jpg", "sub/b.jpg"]


def test_several_roots_are_told_apart_by_name_and_number(tree: Tree) -> None:
    tree("x/photos/a.jpg", "y/photos/a.jpg", "z/photos/a.jpg", "other/a.jpg")
    assert keys("x/photos", "y/photos/", "other", "z/photos") == [
        "photos/a.jpg", "photos~2/a.jpg", "other/a.jpg", "photos~3/a.jpg"]  # fmt: skip


def test_a_folder_and_a_picture_in_it_are_two_sources_of_one_input(tree: Tree) -> None:
    tree("in/a.jpg", "in/b.jpg")
    assert keys("in", "in/a.jpg", "./in/b.jpg") == ["in/a.jpg", "in/b.jpg"]


def test_a_root_given_twice_or_within_another_adds_nothing(tree: Tree) -> None:
    tree("in/a.jpg", "in/cats/b.jpg")
    assert keys("in", "./in/", "in/cats", "in/cats/b.jpg") == ["in/a.jpg", "in/cats/b.jpg"]


def test_a_list_names_each_file_once_by_its_normalised_path(tree: Tree) -> None:
    folder = tree("in/a.jpg", "b.jpg")
    (folder / "list").write_text("in/a.jpg\n./in/a.jpg\nin/../b.jpg\n\nin//a.jpg\r\n")
    assert keys(list_files=("list",)) == ["in/a.jpg", "b.jpg"]
    assert paths(list_files=("list",)) == ["in/a.jpg", "in/../b.jpg"]


def test_keys_stay_inside_the_output_whatever_a_path_climbs(tree: Tree) -> None:
    folder = tree("in/a.jpg")
    (folder / "list").write_text("../../etc/a.jpg\n/etc/b.jpg\n//c.jpg\nin/../../d.jpg\n..\n")
    found = keys(list_files=("list",))
    assert found == ["_up/_up/etc/a.jpg", "etc/b.jpg", "c.jpg", "_up/d.jpg", "_up"]


def test_two_files_that_share_a_key_are_told_apart(tree: Tree) -> None:
    folder = tree("a.jpg")
    (folder / "list").write_text("a.jpg\n/a.jpg\n/a.jpg\na.jpg\n")
    first, second = keys(list_files=("list",))
    assert first == "a.jpg"
    assert second.startswith("a.jpg~")
    assert keys(list_files=("list",)) == [first, second]


def test_names_too_long_for_a_file_system_are_cut_and_stay_distinct(tree: Tree) -> None:
    names = ["x" * 245 + f"{n}.jpg" for n in range(3)]
    names.append("é" * 120 + ".jpg")
    tree(*(f"in/{name}" for name in names))
    found = keys("in")
    assert len(set(found)) == 4
    for key in found:
        assert len(os.fsencode(key)) <= 160
        assert key.endswith(".jpg")
        assert "~" in key
    assert keys("in") == found


def test_a_name_of_160_bytes_is_kept(tree: Tree) -> None:
    tree("in/" + "x" * 156 + ".jpg")
    assert keys("in") == ["x" * 156 + ".jpg"]


def test_names_that_are_not_utf8_get_keys_that_are(tree: Tree) -> None:
    tree(b"in/\xff\xfe.jpg", b"in/\xfe\xff.jpg")
    one, other = keys("in")
    assert one != other
    for key in (one, other):
        assert key.encode("utf-8").endswith(b".jpg")
    assert [os.fsencode(path) for path in paths("in")] == [b"in/\xfe\xff.jpg", b"in/\xff\xfe.jpg"]


def test_a_list_on_stdin_is_separated_by_lines(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree("a.jpg", "b c.jpg")
    listed(monkeypatch, b"a.jpg\nb c.jpg\n\xff.jpg")
    assert [os.fsencode(path) for path in paths("-")] == [b"a.jpg", b"b c.jpg", b"\xff.jpg"]


@pytest.mark.parametrize("last", [b"", b"\0"])
def test_a_list_separated_by_nul_may_name_newlines(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, last: bytes
) -> None:
    tree("two\nlines.jpg")
    listed(monkeypatch, b"two\nlines.jpg\0" + b"x" * 70_000 + b".jpg\0 a.jpg" + last)
    found = paths(list_files=("-",), null_separated=True)
    assert found == ["two\nlines.jpg", "x" * 70_000 + ".jpg", " a.jpg"]


def test_a_list_that_cannot_be_read_is_an_error(tree: Tree) -> None:
    tree("a.jpg")
    with pytest.raises(UsageError, match="cannot read the list 'gone"):
        keys(list_files=("gone.txt",))


def matching(tree: Tree, **filters: Iterable[str]) -> list[str]:
    tree("in/a.jpg", "in/b.png", "in/cats/c.jpg", "in/cats/d_mask.png", "in/dogs/e.jpg")
    return keys("in", **{name: tuple(globs) for name, globs in filters.items()})


def test_include_and_exclude_match_the_path_or_the_name(tree: Tree) -> None:
    assert matching(tree, include=["*.png"]) == ["b.png", "cats/d_mask.png"]
    assert matching(tree, include=["cats/*"]) == ["cats/c.jpg", "cats/d_mask.png"]
    assert matching(tree, exclude=["*_mask.*"]) == ["a.jpg", "b.png", "cats/c.jpg", "dogs/e.jpg"]
    assert matching(tree, include=["cats/*", "dogs/*"], exclude=["*.png"]) == [
        "cats/c.jpg", "dogs/e.jpg"]  # fmt: skip
    assert matching(tree, include=["*.JPG"]) == []


def test_filtered_inputs_are_counted_as_ignored(tree: Tree) -> None:
    tree("in/a.jpg", "in/b.png", "in/c.txt")
    assert ignored("in", include=("*.jpg",)) == 2


def test_filters_apply_to_named_files_too(tree: Tree) -> None:
    tree("a.jpg", "b.png")
    assert keys("a.jpg", "b.png", exclude=("*.png",)) == ["a.jpg"]


def test_a_link_to_a_folder_is_followed(tree: Tree) -> None:
    folder = tree("in/a.jpg", "elsewhere/b.jpg", "elsewhere/deep/c.jpg")
    (folder / "in" / "link").symlink_to("../elsewhere")
    assert keys("in") == ["a.jpg", "link/b.jpg", "link/deep/c.jpg"]


def test_links_upwards_end(tree: Tree) -> None:
    folder = tree("in/a.jpg", "in/sub/b.jpg")
    (folder / "in" / "sub" / "up").symlink_to("..")
    (folder / "in" / "sub" / "self").symlink_to(".")
    assert keys("in") == ["a.jpg", "sub/b.jpg"]
    assert ignored("in") == 2


def test_folders_that_link_to_each_other_end(tree: Tree) -> None:
    folder = tree("in/x/a.jpg", "in/y/b.jpg")
    (folder / "in" / "x" / "y").symlink_to("../y")
    (folder / "in" / "y" / "x").symlink_to("../x")
    assert keys("in") == ["x/a.jpg", "x/y/b.jpg", "y/b.jpg", "y/x/a.jpg"]


def test_links_that_lead_nowhere_are_tried_as_the_files_they_are_named(tree: Tree) -> None:
    folder = tree("in/a.jpg")
    (folder / "in" / "loop.jpg").symlink_to("loop.jpg")
    (folder / "in" / "gone.jpg").symlink_to("nowhere")
    (folder / "in" / "loop").symlink_to("loop")
    assert keys("in") == ["a.jpg", "gone.jpg", "loop.jpg"]


def test_a_subfolder_that_cannot_be_listed_is_an_input_that_will_fail(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("in/a.jpg", "in/private/b.jpg", "in/z.jpg")
    scan = os.scandir

    def forbidden(folder: str) -> object:
        if folder.endswith("private"):
            raise PermissionError(13, "Permission denied")
        return scan(folder)

    monkeypatch.setattr(os, "scandir", forbidden)
    assert keys("in") == ["a.jpg", "private", "z.jpg"]


def test_a_subfolder_that_goes_away_during_the_walk_is_an_input_that_will_fail(tree: Tree) -> None:
    folder = tree("in/a.jpg", "in/b/1.jpg", "in/c.jpg")
    refs = Walk(Inputs(("in",))).refs()
    assert next(refs).key == "a.jpg"
    shutil.rmtree(folder / "in" / "b")
    assert [ref.key for ref in refs] == ["b", "c.jpg"]


def test_a_root_that_cannot_be_listed_is_an_error(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree("in/a.jpg")

    def forbidden(folder: str) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", forbidden)
    with pytest.raises(UsageError, match="cannot list the folder 'in': Permission denied"):
        keys("in")


def test_a_file_called_as_another_is_filed_does_not_share_its_outputs(tree: Tree) -> None:
    tree("in/" + 200 * "a" + ".jpg")
    (filed,) = keys("in")
    tree("in/" + filed)
    both = keys("in")
    assert filed in both
    assert len(set(both)) == 2
