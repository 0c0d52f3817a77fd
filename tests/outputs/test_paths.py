"""Where outputs go: inside the output directory, under names that every file system takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from camcli.images.discover import Inputs, Walk
from camcli.images.keys import safe_name
from camcli.outputs import paths
from camcli.records import Target

NAMES = ("tench", "tiger cat", "../../etc/passwd", "ß 猫", "a" * 200, "t-shirt", "6")


def overlay(key: str, target: Target, method: str = "hirescam", layer: str | None = None) -> str:
    return paths.overlay_path(key, method, layer, target, NAMES, "jpeg").as_posix()


def test_names_say_method_layer_and_target() -> None:
    assert overlay("a/b.png", Target(0)) == "overlays/a/b.png.hirescam.0_tench.jpg"
    assert overlay("b.png", Target(1), layer="layer4.2") == (
        "overlays/b.png.hirescam.layer4.2.1_tiger_cat.jpg"
    )
    assert paths.json_path("a/b.png") == Path("json/a/b.png.json")
    assert paths.npz_path("a/b.png") == Path("maps/a/b.png.npz")


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (Target(1, 0), "1_tiger_cat-0_tench"),
        (Target(None, 1), "-1_tiger_cat"),
        (Target(2), "2_etc_passwd"),
        (Target(3), "3"),
        (Target(5), "5_t_shirt"),
        (Target(6), "6"),
        (Target(4), "4_" + "a" * 32),
    ],
)
def test_a_target_is_its_index_and_a_plain_label(target: Target, name: str) -> None:
    assert overlay("b.png", target) == f"overlays/b.png.hirescam.{name}.jpg"


@pytest.mark.parametrize(("kind", "end"), [("jpeg", ".jpg"), ("png", ".png"), ("webp", ".webp")])
def test_the_extension_is_that_of_the_format(kind: str, end: str) -> None:
    path = paths.overlay_path("a.png", "hirescam", None, Target(0), NAMES, kind)
    assert path.name == "a.png.hirescam.0_tench" + end


def test_long_suffixes_are_cut_and_stay_distinct() -> None:
    layers = [f"encoder.layers.encoder_layer_11.{'very' * 20}.ln_{n}" for n in (1, 2)]
    long = [overlay("a.png", Target(4, 1), layer=layer) for layer in layers]
    long.append(overlay("a.png", Target(4, 0), layer=layers[0]))
    assert len(set(long)) == 3
    for name in long:
        assert len(name) <= len("overlays/a.png.") + 72 + len(".jpg")
        assert "~" in name


texts = st.text(st.characters(exclude_characters="\n\x00"), min_size=1, max_size=300)
targets = st.builds(Target, st.none() | st.integers(0, 6), st.none() | st.integers(0, 6))


@given(texts, targets, texts)
def test_every_output_of_every_path_is_inside_and_fits_a_file_system(
    tmp_path_factory: pytest.TempPathFactory, text: str, target: Target, layer: str
) -> None:
    listing = tmp_path_factory.getbasetemp() / "listing"
    listing.write_bytes(os.fsencode(text.encode("utf-8", "replace").decode()) + b"\n")
    for ref in Walk(Inputs(list_files=(str(listing),))).refs():
        written = (
            paths.json_path(ref.key),
            paths.npz_path(ref.key),
            paths.overlay_path(ref.key, "hirescam", layer, target, NAMES, "webp"),
        )
        for path in written:
            assert not path.is_absolute()
            assert ".." not in path.parts
            assert Path(os.path.normpath(path)) == path
            assert max(len(os.fsencode(part)) for part in path.parts) <= 255


names = st.lists(st.binary(min_size=1, max_size=250), min_size=2, max_size=6, unique=True)


@given(names, st.booleans())
def test_no_two_names_share_a_path(names: list[bytes], once_more: bool) -> None:
    files = {name.translate(None, b"\0/") for name in names} - {b"", b".", b".."}
    if once_more:  # what they are filed under may be names of files too
        files |= {os.fsencode(safe_name(os.fsdecode(name))) for name in files}
    keys = {safe_name(os.fsdecode(name)) for name in files}
    assert len({paths.json_path(key) for key in keys}) == len(files)
    assert len({paths.npz_path(key) for key in keys}) == len(files)
    assert len({overlay(key, Target(0)) for key in keys}) == len(files)


@given(st.lists(texts, min_size=2, max_size=6))
def test_no_two_paths_of_a_list_share_an_output(
    tmp_path_factory: pytest.TempPathFactory, named: list[str]
) -> None:
    listing = tmp_path_factory.getbasetemp() / "listing"
    encoded = [text.encode("utf-8", "replace").rstrip(b"\r") for text in named]
    given = [raw for raw in encoded if raw]
    listing.write_bytes(b"\n".join(given) + b"\n")
    refs = list(Walk(Inputs(list_files=(str(listing),))).refs())
    assert len({paths.json_path(ref.key) for ref in refs}) == len(refs)
    assert len(refs) == len({os.path.abspath(os.fsdecode(raw)) for raw in given})
