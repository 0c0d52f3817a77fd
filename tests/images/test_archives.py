"""Pictures in tar and zip archives, beside the same ones in a folder."""

from __future__ import annotations

import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli import config
from camcli.cli.explain import job_of
from camcli.errors import UsageError
from camcli.images import archives
from camcli.images.decode import decode
from camcli.images.discover import Inputs, Walk
from camcli.records import Decoded, Failure, ImageRef
from camcli.run import Run, Summary
from tests.images.decoding import SETTINGS
from tests.written import outputs

SMALL = {"model": "squeezenet1_1", "weights": "none", "size": "64", "batch_size": "2"}


def tarred(path: Path, files: Mapping[str, bytes], **options: object) -> Path:
    with tarfile.open(path, "w", **options) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, files: Mapping[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def found(*roots: object, **options: object) -> list[ImageRef]:
    return list(Walk(Inputs(tuple(map(str, roots)), **options)).refs())


def explained(out: Path, *roots: object, **settings: object) -> Summary:
    chosen, _ = config.resolve(SMALL | {"output": str(out)} | settings, {}, None)
    run = Run(job_of(chosen, tuple(map(str, roots)), set()))
    for _ in run.records():
        pass
    return run.summary


@pytest.fixture
def pictures(picture: Callable[..., Path]) -> dict[str, bytes]:
    names = ("a/1.png", "a/2.jpg", "b.png")
    return {name: picture(f"folder/{name}", seed=n).read_bytes() for n, name in enumerate(names)}


@pytest.mark.parametrize("packed", [tarred, zipped])
def test_an_archive_is_explained_as_the_folder_it_was_made_of(
    packed: Callable, pictures: dict[str, bytes], tmp_path: Path
) -> None:
    archive = packed(tmp_path / f"x.{packed.__name__[:3]}", pictures)
    assert explained(tmp_path / "from-folder", tmp_path / "folder").done == 3
    assert explained(tmp_path / "from-archive", archive).done == 3
    kept = {
        name: content
        for name, content in outputs(tmp_path / "from-folder").items()
        if not name.startswith("json/")
    }
    assert len(kept) == 6
    assert kept.items() <= outputs(tmp_path / "from-archive").items()
    record = json.loads((tmp_path / "from-archive/json/a/1.png.json").read_bytes())
    assert record["path"] == f"{archive}/a/1.png"
    again = explained(tmp_path / "from-archive", archive)
    assert (again.done, again.already_done) == (0, 3)
    os.utime(archive, ns=(0, 0))
    assert explained(tmp_path / "from-archive", archive).changed == 3


def test_overlays_are_drawn_again_from_an_archive(
    pictures: dict[str, bytes], tmp_path: Path, camcli: Callable
) -> None:
    explained(tmp_path / "out", tarred(tmp_path / "x.tar", pictures), write="json,npz")
    camcli("render", tmp_path / "out", "-q", check=0)
    assert len(list((tmp_path / "out/overlays").rglob("*.jpg"))) == 3


def test_members_are_named_like_files_of_a_folder(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    one = tarred(tmp_path / "one.tar", {f"./{name}": data for name, data in pictures.items()})
    two = zipped(
        tmp_path / "two.zip", {"b.png": pictures["b.png"], ".hidden.png": b"", "n.txt": b""}
    )
    assert [ref.key for ref in found(one)] == ["a/1.png", "a/2.jpg", "b.png"]
    assert found(one)[0].path == f"{one}/a/1.png"
    both = [ref.key for ref in found(one, two, one)]
    assert both == ["one.tar/a/1.png", "one.tar/a/2.jpg", "one.tar/b.png", "two.zip/b.png"]
    assert [ref.key for ref in found(one, include=("*.jpg",))] == ["a/2.jpg"]
    (tmp_path / "list").write_text(f"{one}\n{two}/b.png\n")
    listed = [ref.path for ref in found(list_files=(str(tmp_path / "list"),))]
    assert listed == [f"{one}/{name}" for name in pictures] + [f"{two}/b.png"]
    (ref,) = found(f"{two}/b.png")
    assert isinstance(decode(ref, SETTINGS), Decoded)


def test_a_member_that_leads_out_of_its_archive_is_filed_inside_the_output(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    data = pictures["b.png"]
    archive = tarred(tmp_path / "x.tar", {"../b.png": data, "/b.png": data, "_up/b.png": data})
    keys = [ref.key for ref in found(archive)]
    assert len(set(keys)) == 3
    assert all(not key.startswith("/") and ".." not in key.split("/") for key in keys)
    assert explained(tmp_path / "out", archive).done == 3
    assert not (tmp_path / "b.png").exists()


def test_the_class_beside_a_picture_is_its_label(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    files = {
        "s/1.seg.png": pictures["b.png"], "s/1.cls": b"7\n",
        "s/2.json": b'{"caption": "a cat", "label": "tabby"}', "s/2.jpg": pictures["a/2.jpg"],
        "3.png": pictures["b.png"], "4.png": pictures["b.png"], "4.json": b"[" * 99_999,
        "5.png": pictures["b.png"], "5.json": b'["cls"]',
    }  # fmt: skip
    walk = Walk(Inputs((str(tarred(tmp_path / "x.tar", files)),)))
    labels = {ref.key: ref.label for ref in walk.refs()}
    none = dict.fromkeys(("3.png", "4.png", "5.png"))
    assert labels == {"s/1.seg.png": "7", "s/2.jpg": "tabby", **none}
    assert walk.ignored == 0
    out = tmp_path / "out"
    summary = explained(out, tmp_path / "x.tar", target="label", labels="imagenet1k")
    assert (summary.done, summary.failed) == (2, 3)
    record = json.loads((out / "json/s/1.seg.png.json").read_bytes())
    assert record["explanations"][0]["target"]["index"] == 7
    assert archives.label_of(record["path"]) == "7"
    assert archives.label_of(f"{tmp_path}/none.tar/1.png") is None
    failed = json.loads((out / "json/3.png.json").read_bytes())
    assert failed["error"]["message"].startswith("no class lies beside it")


def test_what_can_be_read_of_a_damaged_tar_is_and_the_rest_is_one_failure(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    whole = tarred(tmp_path / "whole.tar", pictures).read_bytes()
    data = [len(pictures[name]) for name in pictures]
    second = 512 + -(-data[0] // 512) * 512  # where the header of the second member is
    for cut, damage in ((second + 300, b""), (second + 700, b""), (second, b"x" * 2000)):
        archive = tmp_path / "x.tar"
        archive.write_bytes(whole[:cut] + damage)
        refs = found(archive)
        assert [ref.key for ref in refs if ref.path != str(archive)][:1] == ["a/1.png"]
        assert refs[-1].path == str(archive)
        assert isinstance(decode(refs[0], SETTINGS), Decoded)
        last = decode(refs[-1], SETTINGS)
        assert isinstance(last, Failure)
        assert "the archive is damaged" in last.message
        archives._opened.cache_clear()


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
@pytest.mark.parametrize("content", [b"", b"x", b"PK\x05\x06", bytes(3000), b"no archive" * 999])
def test_what_is_no_archive_is_one_failure(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    refs = found(tmp_path / name)
    assert all(isinstance(decode(ref, SETTINGS), Failure) for ref in refs)
    assert [ref.key for ref in refs] == ([] if refs == [] else [name])


@given(st.integers(0, 3000), st.binary(min_size=1, max_size=40), st.sampled_from(["tar", "zip"]))
def test_no_damage_does_more_than_fail(
    tmp_path_factory: pytest.TempPathFactory, at: int, noise: bytes, kind: str
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    files = {f"{n}.png": bytes([n]) * 300 for n in range(3)} | {"1.json": b'{"label": 3}'}
    archive = (tarred if kind == "tar" else zipped)(folder / f"x.{kind}", files)
    content = bytearray(archive.read_bytes())
    content[at : at + len(noise)] = noise
    archive.write_bytes(content)
    for ref in found(archive):
        assert isinstance(decode(ref, SETTINGS), Failure)


def test_a_packed_member_is_refused_by_what_it_says_it_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = zipped(tmp_path / "x.zip", {"bomb.png": bytes(200 * 2**20)})
    assert archive.stat().st_size < 2**20
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    outcome = decode(found(archive)[0], SETTINGS)
    assert isinstance(outcome, Failure)
    assert "bytes are more than" in outcome.message


def test_a_tar_that_can_only_be_read_from_its_beginning_is_refused(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz"):
        pass
    with pytest.raises(UsageError, match=r"x\.tar\.gz' is compressed"):
        found(tmp_path / "x.tar.gz")


def test_a_member_that_is_gone_is_a_file_that_is_not_found(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    archive = tarred(tmp_path / "x.tar", pictures)
    outcome = decode(ImageRef(f"{archive}/none.png", "none.png"), SETTINGS)
    assert isinstance(outcome, Failure)
    assert outcome.type == "FileNotFoundError"


def test_archives_in_a_folder_are_not_looked_into(
    pictures: dict[str, bytes], tmp_path: Path
) -> None:
    tarred(tmp_path / "folder" / "copy.tar", pictures)
    walk = Walk(Inputs((str(tmp_path / "folder"),)))
    assert len(list(walk.refs())) == 3
    assert walk.ignored == 1
