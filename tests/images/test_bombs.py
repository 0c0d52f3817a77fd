"""Files that are small on disk and large in memory, or large on disk and nothing at all."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from camcli.images import decode
from camcli.images.discover import EXTENSIONS
from tests.images.decoding import decoded, failed, huge_png


def test_a_file_of_many_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse.jpg", "wb") as file:
        file.truncate(2**40)
    outcome = failed(tmp_path / "sparse.jpg")
    assert (outcome.stage, outcome.transient) == ("read", False)
    assert outcome.message == (
        "1099511627776 bytes are more than a picture of --max-pixels 10000 takes"
    )


@pytest.mark.parametrize("change", ["grows", "shrinks"])
def test_a_file_that_changes_while_it_is_read_is_tried_again(
    monkeypatch: pytest.MonkeyPatch, picture: Callable[..., Path], change: str
) -> None:
    path = picture("a.png")
    ask = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        status = ask(descriptor)
        os.truncate(path, 2 * status.st_size if change == "grows" else 10)
        return status

    monkeypatch.setattr(os, "fstat", fstat)
    outcome = failed(path)
    assert (outcome.stage, outcome.transient) == ("read", True)
    assert outcome.message == "the file changed while it was read"


def test_every_picture_that_a_folder_offers_has_a_format_that_is_tried() -> None:
    Image.init()
    tried = {*decode._COMMON_FORMATS, *decode._OTHER_FORMATS}
    assert {Image.EXTENSION[name] for name in EXTENSIONS} <= tried
    assert tried <= Image.OPEN.keys()


def test_what_would_start_another_program_is_no_picture(tmp_path: Path) -> None:
    drawing = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
    (tmp_path / "drawing.jpg").write_text(drawing)
    assert failed(tmp_path / "drawing.jpg").message == "not a picture that can be identified"


def test_an_icon_cannot_hide_a_larger_picture(tmp_path: Path) -> None:
    inner = huge_png(60_000, 60_000)
    entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(inner), 22)
    (tmp_path / "icon.png").write_bytes(struct.pack("<HHH", 0, 1, 1) + entry + inner)
    assert failed(tmp_path / "icon.png").message == "not a picture that can be identified"


def tiff(width: int, height: int, tile: int) -> bytes:
    """A black picture that lies in one tile of any size."""
    data = zlib.compress(bytes(tile * tile), 1)
    values = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile}
    offset = 8 + 2 + 12 * (len(values) + 2) + 4
    entries = [*values.items(), (324, offset), (325, len(data))]
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in entries)
    head = b"II*\0" + struct.pack("<IH", 8, len(entries))
    return head + directory + bytes(4) + data


def test_a_tile_larger_than_its_picture_counts_too(tmp_path: Path) -> None:
    (tmp_path / "small.tif").write_bytes(tiff(10, 10, tile=96))
    (tmp_path / "bomb.tif").write_bytes(tiff(10, 10, tile=112))
    assert decoded(tmp_path / "small.tif").shape == (10, 10, 3)
    assert failed(tmp_path / "bomb.tif").message == "112x112 is more than --max-pixels 10000"


BLANK = {
    "a.png": {}, "a.gif": {}, "a.bmp": {}, "a.ppm": {}, "a.tga": {"compression": "tga_rle"},
    "a.tif": {"compression": "tiff_adobe_deflate"}, "a.jp2": {}, "a.jpg": {"quality": 1},
    "a.webp": {"lossless": True, "method": 0, "quality": 0}, "a.avif": {"speed": 10},
}  # fmt: skip


def test_no_format_takes_memory_before_its_size_is_known(tmp_path: Path) -> None:
    for name, options in BLANK.items():
        Image.new("RGB", (1800, 1800)).save(tmp_path / name, **options)
    program = """if True:
        import sys
        from pathlib import Path
        from PIL import Image
        from tests.images.decoding import failed
        def most():
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        Image.init()
        for name in sys.argv[1:]:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
            before = most()
            said = failed(Path(name)).message
            print(most() - before, Path(name).stat().st_size // 1000, said)
    """
    command = [sys.executable, "-c", program, *(str(tmp_path / name) for name in BLANK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == len(BLANK)
    for line in lines:
        kilobytes, own, said = line.split(maxsplit=2)
        assert said == "1800x1800 is more than --max-pixels 10000"
        # Beside the file itself less than a fifth of the 10 MB of its pixels.
        assert int(kilobytes) < int(own) + 2000
