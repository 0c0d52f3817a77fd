"""The process that decodes pictures for another: bytes in, pixels out, no file opened.

It is told what to do in lines of JSON on a socket; the bytes lie in memory that both share. Nothing
is unpickled on either side.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import resource
import socket
from functools import lru_cache
from typing import Any

import numpy as np

from camcli.images.decode import DecodeSettings, own_pillow, picture_of
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, FileFacts, ImageRef

_NOBODY = ImageRef("", ""), FileFacts(0, 0)  # the name and the file are the other side's
# What a picture takes at most while it is decoded: 16-bit gray becomes float64 on the way.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 48, 2**30


def main(channel: int, memory: int) -> None:
    """Answer requests until the other side has gone."""
    own_pillow()
    _die_with_parent()
    _cost_nobody_else()
    with socket.socket(fileno=channel) as connection, connection.makefile("rb") as requests:
        connection.sendall(b"ready\n")
        # What a C library prints when it gives up would reach the terminal unescaped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for line in requests:
            request = json.loads(line)
            settings = _settings(request["settings"])
            _limit_memory(settings.max_pixels)
            answer = _answer(memory, request["size"], settings)
            connection.sendall(json.dumps(answer).encode() + b"\n")


def request(size: int, settings: DecodeSettings) -> bytes:
    """The line that asks for the picture in the first `size` bytes of the shared memory."""
    return b'{"size": %d, "settings": %b}\n' % (size, _told(settings))


@lru_cache(maxsize=1)
def _told(settings: DecodeSettings) -> bytes:
    return json.dumps(dataclasses.asdict(settings)).encode()


def put(memory: int, *blocks: Any) -> None:
    """Write buffers one after the other from the start of the shared memory on."""
    offset = 0
    for block in blocks:
        rest = memoryview(block).cast("B")
        while rest:
            written = os.pwrite(memory, rest, offset)
            rest, offset = rest[written:], offset + written


def take(memory: int, into: Any, offset: int = 0) -> None:
    """Fill a buffer from the shared memory."""
    rest = memoryview(into).cast("B")
    while rest:
        read = os.preadv(memory, [rest], offset)
        if not read:
            raise ValueError("the shared memory is shorter than it was said to be")
        rest, offset = rest[read:], offset + read


def _answer(memory: int, size: int, settings: DecodeSettings) -> dict[str, Any]:
    with open(memory, "rb", closefd=False) as file:
        file.seek(0)
        data = file.read(size)
    outcome = picture_of(*_NOBODY, data, settings)
    if isinstance(outcome, Decoded):
        try:
            return _sent(memory, outcome)
        except MemoryError:
            outcome = Failure(*_NOBODY, "MemoryError", "not enough memory", "decode", True)
    return {"failure": [outcome.type, outcome.message, outcome.transient]}


def _sent(memory: int, decoded: Decoded) -> dict[str, Any]:
    canvas = decoded.canvas
    put(memory, np.ascontiguousarray(decoded.view), canvas.tobytes() if canvas else b"")
    return {
        "orientation": decoded.exif_orientation,
        "source": decoded.geometry.source,
        "box": decoded.geometry.box,
        "canvas": canvas.size if canvas else None,
    }


def _settings(told: dict[str, Any]) -> DecodeSettings:
    recipe: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in told["preprocessing"].items()
    }
    return DecodeSettings(**told | {"preprocessing": Preprocessing(**recipe)})


def _die_with_parent() -> None:
    """End by SIGIO as soon as stdin, which nothing is ever written to, is closed by the kernel.

    However the parent ended, and whatever a decoder is doing: a thread would wait for the lock.
    """
    fcntl.fcntl(0, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(0, fcntl.F_SETFL, fcntl.fcntl(0, fcntl.F_GETFL) | os.O_ASYNC)


def _cost_nobody_else() -> None:
    """No core dump where the run was started, and the first to go where memory runs out."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")


def _limit_memory(max_pixels: int) -> None:
    """Refuse what no picture of the permitted size needs; a lower limit from outside stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = _BYTES_BESIDE + _BYTES_PER_PIXEL * max_pixels
    if soft == resource.RLIM_INFINITY or soft > wanted:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
