"""Decoding for tests: the picture itself, or the failure."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest

from camcli.images.decode import DecodeSettings, decode
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, ImageRef

SIZE = (40, 30)
# As small a preparation as there is, so that `canvas` shows the decoded picture itself.
PREPARE = Preprocessing((8, 8), 8, (0.5,) * 3, (0.5,) * 3, "bilinear", "squash", "a test")
SETTINGS = DecodeSettings(PREPARE, 1024, 10_000)


# Python runs it in every process it starts, before anything else: files that begin with these
# words stand for those that a codec cannot bear.
CODEC = """if True:
    import ctypes, os, signal
    from PIL import Image
    really_open = Image.open
    def open(file, *args, **options):
        start = file.read(20)
        file.seek(0)
        if start.startswith(b"signal "):
            os.kill(os.getpid(), int(start[7:9]))
        if start == b"exit":
            os._exit(3)
        if start == b"hang":
            ctypes.PyDLL(None).sleep(1000)  # and keeps Python's lock meanwhile
        if start == b"memory":
            bytearray(10**15)
        return really_open(file, *args, **options)
    Image.open = open
"""


def failing_codec(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the processes that are started from here on a codec that can be made to fail."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(CODEC)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)


def decoded(path: Path) -> np.ndarray:
    outcome = decode(ImageRef(str(path), path.name), SETTINGS)
    assert isinstance(outcome, Decoded), outcome
    assert outcome.canvas is not None
    assert outcome.canvas.mode == "RGB"
    return np.asarray(outcome.canvas)


def failed(path: Path, settings: DecodeSettings = SETTINGS) -> Failure:
    outcome = decode(ImageRef(str(path), path.name), settings)
    assert isinstance(outcome, Failure), outcome
    return outcome


def png(width: int, height: int, colours: int, interlaced: bool, rows: bytes) -> bytes:
    """An 8-bit PNG of these rows; `colours` 0 is gray and 2 RGB."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, colours, 0, 0, interlaced)
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + chunk(b"IEND", b"")


def huge_png(width: int, height: int) -> bytes:
    """A file of less than a kilobyte whose header declares any size."""
    return png(width, height, 2, False, bytes(100))
