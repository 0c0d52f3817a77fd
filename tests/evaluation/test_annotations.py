"""Masks out of COCO JSON, Pascal VOC XML and PNGs, in upright source pixels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageOps

from camcli.cam.targets import Classes
from camcli.errors import UsageError
from camcli.evaluation.annotations import Annotations, open_annotations, raster
from camcli.evaluation.annotations.naming import paired

CLASSES = Classes(4, ("cat", "dog", "crane", "crane"))


def coco(
    tmp_path: Path,
    *objects: dict[str, Any],
    size: tuple[int, int] | None = (6, 4),
    names: tuple[str, ...] = ("cat", "dog", "person"),
) -> Path:
    image = {"id": 7, "file_name": "a.jpg"}
    if size:
        image |= {"width": size[0], "height": size[1]}
    path = tmp_path / "marks.json"
    content = {
        "images": [image],
        "annotations": [{"id": k, "image_id": 7} | own for k, own in enumerate(objects)],
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    path.write_text(json.dumps(content))
    return path


def only_mask(path: Path, size: tuple[int, int] = (6, 4), orientation: int = 1) -> np.ndarray:
    mask = open_annotations(path, ["a.jpg"], CLASSES).mask("a.jpg", 0, size, orientation)
    assert mask is not None
    return mask


def filled(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    mask = np.zeros((4, 6), bool)
    mask[top:bottom, left:right] = True
    return mask


def voc(path: Path, *boxes: tuple[str, int, int, int, int], size: tuple[int, int] = (6, 4)) -> None:
    objects = "".join(
        f"<object><name>{name}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
        f"<ymax>{d}</ymax></bndbox></object>"
        for name, a, b, c, d in boxes
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"<annotation><size><width>{size[0]}</width><height>{size[1]}</height></size>"
        f"{objects}</annotation>"
    )


def test_the_four_shapes_of_coco_cover_the_same_pixels(tmp_path):
    shapes = [
        {"bbox": [1, 1, 3, 2]},
        {"segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
        {"segmentation": {"size": [4, 6], "counts": [5, 2, 2, 2, 2, 2, 9]}},
        {"segmentation": {"size": [4, 6], "counts": "5220007"}},
    ]
    for shape in shapes:
        path = coco(tmp_path, {"category_id": 0} | shape)
        np.testing.assert_array_equal(only_mask(path), filled(1, 1, 4, 3))


def test_a_compressed_code_is_its_run_lengths_by_the_published_rule():
    # 5, 2, 2 as they are; then differences from two before: 0, 0, 0, 9 - 2 = 7.
    assert raster.decompressed("5220007") == [5, 2, 2, 2, 2, 2, 9]
    # 40 = 8 + 32 * 1 takes two groups; -1 is all ones.
    assert raster.decompressed("X11") == [40, 1]
    assert raster.decompressed("55O") == [5, 5, -1]


@settings(max_examples=40)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 40))))
def test_run_lengths_are_those_of_pycocotools(mask):
    peer = pytest.importorskip("pycocotools.mask")
    code = peer.encode(np.asfortranarray(mask, np.uint8))
    size = mask.shape[1], mask.shape[0]
    lengths = raster.decompressed(code["counts"].decode())
    np.testing.assert_array_equal(raster.run_lengths(lengths, size), mask)


def test_a_polygon_differs_from_pycocotools_by_its_border_only():
    peer = pytest.importorskip("pycocotools.mask")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = [(50 + 30 * np.cos(a), 40 + 20 * np.sin(3 * a) + 15 * np.sin(a)) for a in angles]
    ours = raster.polygon(points, (100, 90))
    code = peer.frPyObjects([[v for point in points for v in point]], 90, 100)
    theirs = peer.decode(peer.merge(code)).astype(bool)
    inner = raster.polygon(
        [(50 + 0.9 * (x - 50), 40 + 0.9 * (y - 40)) for x, y in points], (100, 90)
    )
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9
    assert inner.sum() > 500


def test_a_polygon_holds_the_pixels_whose_centres_it_holds():
    triangle = [(0.0, 0.0), (8.0, 0.0), (0.0, 8.0)]
    expected = [[(c + 0.5) + (r + 0.5) < 8 for c in range(8)] for r in range(8)]
    # A centre on the edge itself belongs to one side, whichever.
    off_edge = [[(c + 0.5) + (r + 0.5) != 8 for c in range(8)] for r in range(8)]
    found = raster.polygon(triangle, (8, 8))
    np.testing.assert_array_equal(found & off_edge, np.array(expected) & off_edge)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(-20, 30), st.floats(-20, 30)), min_size=3, max_size=8))
def test_a_polygon_is_the_even_odd_rule_at_every_centre(points):
    found = raster.polygon(points, (9, 7))
    for row in range(7):
        for column in range(9):
            y, x, inside = row + 0.5, column + 0.5, False
            for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
                if (x0, y0, x1, y1) != (x1, y1, x0, y0) and (y0 <= y) != (y1 <= y):
                    (xa, ya), (xb, yb) = sorted([(x0, y0), (x1, y1)], key=lambda p: p[1])
                    inside ^= bool(xa + (y - ya) * ((xb - xa) / (yb - ya)) <= x)
            assert found[row, column] == inside


def test_objects_of_one_class_are_joined_and_other_classes_left_out(tmp_path):
    path = coco(
        tmp_path,
        {"category_id": 0, "bbox": [0, 0, 1, 1]},
        {"category_id": 0, "bbox": [5, 3, 1, 1]},
        {"category_id": 1, "bbox": [2, 2, 1, 1]},
    )
    np.testing.assert_array_equal(only_mask(path), filled(0, 0, 1, 1) | filled(5, 3, 6, 4))
    opened = open_annotations(path, ["a.jpg"], CLASSES)
    assert opened.mask("a.jpg", 3, (6, 4)) is None
    assert opened.mask("a.jpg", None, (6, 4)) is None
    assert opened.mask("b.jpg", 0, (6, 4)) is None


def test_voc_counts_pixels_from_one_and_names_the_last_one_inside(tmp_path):
    voc(tmp_path / "a.xml", ("cat", 2, 2, 4, 3))
    np.testing.assert_array_equal(only_mask(tmp_path), filled(1, 1, 4, 3))
    np.testing.assert_array_equal(only_mask(tmp_path / "a.xml"), filled(1, 1, 4, 3))


def test_any_pixel_of_a_mask_that_is_not_black_is_the_object(tmp_path):
    wanted = filled(1, 0, 3, 2)
    for mode, values in [
        ("1", wanted),
        ("L", wanted * np.uint8(3)),
        ("I;16", wanted * np.uint16(9)),
    ]:
        Image.fromarray(values).save(tmp_path / "a.png")
        assert Image.open(tmp_path / "a.png").mode == mode
        np.testing.assert_array_equal(only_mask(tmp_path), wanted)
    colour = np.zeros((4, 6, 4), np.uint8)
    colour[..., 3] = 255
    colour[wanted, 1] = 1
    Image.fromarray(colour).save(tmp_path / "a.png")
    np.testing.assert_array_equal(only_mask(tmp_path), wanted)


def test_palette_indices_are_classes_where_they_are_named_and_255_is_none(tmp_path):
    indices = np.array([[0, 1, 2], [255, 1, 5]], np.uint8)
    picture = Image.fromarray(indices)
    picture = picture.convert("P")
    picture.putpalette(list(range(256)) * 3)
    picture.putdata(indices.ravel().tolist())
    picture.save(tmp_path / "a.jpg.png")
    (tmp_path / "words.json").write_text('{"1": ["cat"], "2": ["dog", 2]}')
    opened = open_annotations(tmp_path, ["a.jpg"], CLASSES, tmp_path / "words.json")
    for index, value in ((0, 1), (1, 2), (2, 2)):
        np.testing.assert_array_equal(opened.mask("a.jpg", index, (3, 2)), indices == value)
    assert opened.mask("a.jpg", 3, (3, 2)) is None
    plain = open_annotations(tmp_path, ["a.jpg"], CLASSES).mask("a.jpg", 3, (3, 2))
    np.testing.assert_array_equal(plain, (indices != 0) & (indices != 255))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_masks_of_the_stored_picture_are_turned_as_pillow_turns_the_picture(tmp_path, orientation):
    stored = np.zeros((4, 6), np.uint8)
    stored[0, 1:3] = stored[1, 5] = 255
    picture = Image.fromarray(stored)
    picture.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture))
    Image.fromarray(stored).save(tmp_path / "a.png")
    size = upright.shape[1], upright.shape[0]
    if orientation in (5, 6, 7, 8):
        np.testing.assert_array_equal(only_mask(tmp_path, size, orientation), upright > 0)
    else:  # both have the same size: taken for what people see
        np.testing.assert_array_equal(only_mask(tmp_path, size, orientation), stored > 0)


def test_names_are_compared_whole_before_their_parts():
    keys = ["x/a.jpg", "y/a.jpg", "b.jpg", "c.v2.jpg", "d.png", "d.jpg", "z/e.jpg"]
    assert paired(keys, ["y/a.jpg", "b", "c.v2", "d.jpg", "./e.jpg", "nothing"]) == {
        "y/a.jpg": 0,
        "b.jpg": 1,
        "c.v2.jpg": 2,
        "d.jpg": 3,
        "z/e.jpg": 4,
    }


def test_a_name_that_two_pictures_share_matches_neither():
    assert paired(["x/a.jpg", "y/a.jpg"], ["a.jpg"]) == {}
    assert paired(["a.jpg"], ["x/a.jpg", "y/a.jpg"]) == {}
    assert paired(["d.png", "d.jpg"], ["d"]) == {}


def test_what_does_not_match_is_counted_in_sentences(tmp_path):
    path = coco(tmp_path, {"category_id": 0, "bbox": [0, 0, 1, 1]},
                {"category_id": 2, "bbox": [0, 0, 1, 1]})  # fmt: skip
    opened = open_annotations(path, ["a.jpg", "b.jpg"], CLASSES)
    assert opened.remarks == (
        f"1 of 2 pictures are not in {path} (the first: 'b.jpg') and are left out of what it "
        "measures.",
        f"1 of 2 classes in {path} (the first: 'person') are no one class of the model and are "
        "left out; name them with --annotation-classes FILE.",
    )


def test_a_label_that_two_classes_share_is_no_class(tmp_path):
    path = coco(tmp_path, {"category_id": 0, "bbox": [0, 0, 1, 1]}, names=("crane",))
    with pytest.raises(UsageError, match=r"none of its 1 classes, such as 'crane', is one class"):
        open_annotations(path, ["a.jpg"], CLASSES)
    (tmp_path / "words.json").write_text('{"crane": 2}')
    opened = open_annotations(path, ["a.jpg"], CLASSES, tmp_path / "words.json")
    assert opened.mask("a.jpg", 2, (6, 4)).sum() == 1


def test_annotations_of_other_pictures_are_a_usage_error(tmp_path):
    path = coco(tmp_path)
    with pytest.raises(UsageError, match=r"marks 1 pictures such as 'a.jpg', none of which is amo"):
        open_annotations(path, ["other.jpg"], CLASSES)


@pytest.mark.parametrize(
    ("damaged", "reason"),
    [
        ({"bbox": [0, 0, 1]}, "annotation 0: neither a segmentation nor 4 numbers"),
        ({"bbox": [0, 0, 1, float("nan")]}, "'nan' is no coordinate"),
        ({"bbox": [0, 0, 1, 10**400]}, "is no coordinate"),
        ({"segmentation": [[0, 0, 1, 1]]}, "a polygon needs three points"),
        ({"segmentation": [["a"] * 6]}, "'a' is no coordinate"),
        ({"segmentation": {"size": [10**6, 10**6], "counts": [10**12]}}, "its mask is 1e"),
        ({"segmentation": {"size": [4, 6], "counts": [10**12]}}, "do not add up to 6x4 pixels"),
        ({"segmentation": {"size": [4, 6], "counts": [25, -1]}}, "do not add up"),
        ({"segmentation": {"size": [4, 6], "counts": "\u00e9"}}, "run lengths are damaged"),
        ({"segmentation": {"size": [4, 6], "counts": "o" * 10**5}}, "run lengths are damaged"),
        ({"segmentation": {"size": [4, 6], "counts": "o"}}, "run lengths break off"),
        ({"segmentation": {"size": [4, 6], "counts": None}}, "neither text nor a list"),
    ],
)  # fmt: skip
def test_a_damaged_object_is_said_of_its_picture(tmp_path, damaged, reason):
    path = coco(tmp_path, {"category_id": 0} | damaged)
    opened = open_annotations(path, ["a.jpg"], CLASSES)
    with pytest.raises(ValueError, match=reason):
        opened.mask("a.jpg", 0, (6, 4))


def test_annotations_of_another_size_are_said_of_the_picture(tmp_path):
    path = coco(tmp_path, {"category_id": 0, "bbox": [0, 0, 1, 1]}, size=(60, 40))
    opened = open_annotations(path, ["a.jpg"], CLASSES)
    with pytest.raises(ValueError, match="of 60x40 pixels, the picture of 6x4"):
        opened.mask("a.jpg", 0, (6, 4))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"[]", "it has no list 'categories'"),
        (b'{"categories": [{"id": [], "name": "x"}]}', "an entry's id is"),
        (b"[" * 10**5, "nested too deeply"),
        (b'{"a": "\xff"}', "can't decode"),
        (
            b'{"categories": [], "images": [], "annotations": [{"image_id": 1}]}',
            "an annotation is of image 1, which is not listed",
        ),
    ],
)
def test_a_file_that_is_no_coco_is_one_sentence(tmp_path, content, reason):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UsageError, match=reason) as caught:
        open_annotations(tmp_path / "x.json", ["a.jpg"], CLASSES)
    assert "\n" not in str(caught.value)


LAUGHS = (
    '<!DOCTYPE a [<!ENTITY x0 "ha">'
    + "".join(f'<!ENTITY x{k + 1} "{f"&x{k};" * 10}">' for k in range(12))
    + "]>"
)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS + "<annotation>&x12;</annotation>", "declares a document type"),
        ('<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>',
         "declares a document type"),
        ('<!DOCTYPE a SYSTEM "http://localhost/x.dtd"><annotation/>', "declares a document type"),
        ("<annotation>", "no XML"),
        ("<html/>", "its root is 'html'"),
        ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "no XML"),
        ("<annotation><object/></annotation>", "an object has no name"),
        ("<annotation><object><name>cat</name></object></annotation>", "'None' is no coordinate"),
        ("<annotation><size><width>wide</width></size></annotation>", "is 'wide' and no number"),
    ],
)  # fmt: skip
def test_xml_that_could_do_harm_or_is_damaged_is_one_sentence(tmp_path, content, reason):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(UsageError, match=reason) as caught:
        open_annotations(tmp_path, ["a.jpg"], CLASSES)
    assert "\n" not in str(caught.value)


@settings(max_examples=40)
@given(st.binary(max_size=60) | st.text('<>&!annotiobjec/[]{}":0123456789,', max_size=60))
def test_no_bytes_get_more_out_of_a_reader_than_a_sentence(tmp_path_factory, content):
    raw = content if isinstance(content, bytes) else content.encode()
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.json", "a.xml", "masks/a.png"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(raw)
        try:
            opened = open_annotations(
                path.parent if name.endswith("png") else path, ["a.jpg"], CLASSES
            )
            opened.mask("a.jpg", 0, (6, 4))
        except (UsageError, OSError, ValueError):
            continue


plain_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@settings(max_examples=20)
@given(plain_json, plain_json, plain_json)
def test_no_json_in_a_coco_object_gets_more_out_of_it_than_a_sentence(
    tmp_path_factory, shape, bbox, width
):
    path = coco(
        tmp_path_factory.mktemp("fuzz"),
        {"category_id": 0, "segmentation": shape, "bbox": bbox},
        {"category_id": 0, "segmentation": {"size": shape, "counts": bbox}},
        size=None,
    )
    content = json.loads(path.read_text())
    content["images"][0]["width"] = width
    path.write_text(json.dumps(content))
    opened = open_annotations(path, ["a.jpg"], CLASSES)
    with pytest.raises(ValueError, match=r"\w"):
        opened.mask("a.jpg", 0, (6, 4))


def test_a_huge_mask_is_refused_before_it_is_decoded(tmp_path):
    Image.new("1", (2000, 1000)).save(tmp_path / "a.png")
    opened = open_annotations(tmp_path, ["a.jpg"], CLASSES, max_pixels=10**6)
    with pytest.raises(ValueError, match="2000x1000 is more than --max-pixels 1000000"):
        opened.mask("a.jpg", 0, (2000, 1000))


def test_a_folder_of_nothing_and_a_mixed_one_are_said(tmp_path):
    with pytest.raises(UsageError, match="marks no picture; give COCO JSON"):
        open_annotations(tmp_path, ["a.jpg"], CLASSES)
    Image.new("1", (2, 2)).save(tmp_path / "a.png")
    voc(tmp_path / "a.xml")
    with pytest.raises(UsageError, match="XML files and PNGs lie in it"):
        open_annotations(tmp_path, ["a.jpg"], CLASSES)
    with pytest.raises(UsageError, match="not a folder"):
        open_annotations(tmp_path / "a.png", ["a.jpg"], CLASSES)
    with pytest.raises(UsageError, match="No such file"):
        open_annotations(tmp_path / "b.json", ["a.jpg"], CLASSES)


@pytest.mark.parametrize("content", ["[]", '{"a": {}}', '{"a": [null]}', "{"])
def test_a_file_of_words_that_is_none_is_one_sentence(tmp_path, content):
    (tmp_path / "words.json").write_text(content)
    with pytest.raises(UsageError, match=r"--annotation-classes .* cannot be read"):
        open_annotations(coco(tmp_path), ["a.jpg"], CLASSES, tmp_path / "words.json")


def test_a_word_for_a_class_that_does_not_exist_is_a_usage_error(tmp_path):
    (tmp_path / "words.json").write_text('{"person": ["catt"]}')
    with pytest.raises(UsageError, match=r"no class 'catt' among 4; did you mean 'cat'"):
        open_annotations(coco(tmp_path), ["a.jpg"], CLASSES, tmp_path / "words.json")


def test_a_page_without_a_size_is_taken_for_upright(tmp_path):
    path = coco(tmp_path, {"category_id": 0, "bbox": [0, 0, 2, 1]}, size=None)
    assert isinstance(open_annotations(path, ["a.jpg"], CLASSES), Annotations)
    np.testing.assert_array_equal(only_mask(path, (6, 4), 6), filled(0, 0, 2, 1))
