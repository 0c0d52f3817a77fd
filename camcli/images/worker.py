"""The processes that decode pictures for another: bytes in, pixels out, no file opened.

One imports what decoding needs and is forked for each that decodes. They are told what to do in
lines of JSON on a socket; the bytes lie in memory that both sides share. Nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import resource
import signal
import socket
import time
from functools import lru_cache
from typing import Any

import numpy as np

from camcli.images.decode import DecodeSettings, own_pillow, picture_of
from camcli.images.preprocess import Preprocessing
from camcli.records import Decoded, Failure, FileFacts, ImageRef

READY, FORK = b"ready\n", b"fork"
_NOBODY = ImageRef("", ""), FileFacts(0, 0)  # the name and the file are the other side's
# What a picture takes at most while it is decoded: 16-bit gray becomes float64 on the way.
_BYTES_PER_PIXEL, _BYTES_BESIDE = 48, 2**30
_SECONDS_TO_DIE = 5.0


def main(channel: int) -> None:
    """Fork a process for every three descriptors received, end those that are named, and go when
    the other side has gone.
    """
    own_pillow()
    with socket.socket(fileno=channel) as control:
        control.sendall(READY)
        # What a C library prints when it gives up would reach the terminal unescaped.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        while True:
            order, passed, _, _ = socket.recv_fds(control, 64, 3)
            if not order:
                return
            if order != FORK:
                control.sendall(str(_ended(int(order))).encode())
                continue
            pid = os.fork()
            if not pid:
                control.close()
                with contextlib.suppress(ConnectionError):
                    _decode(*passed)
                os._exit(0)
            for descriptor in passed:
                os.close(descriptor)
            control.sendall(str(pid).encode())


def _ended(pid: int) -> int:
    """Kill a process, if it has not ended by itself; its exit status, negative for a signal."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while time.monotonic() < deadline:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return 0  # it waits for a disk that does not answer


def _decode(channel: int, memory: int, lifeline: int) -> None:
    """Answer requests until the other side has gone."""
    _die_with(lifeline)
    _cost_nobody_else()
    with socket.socket(fileno=channel) as connection, connection.makefile("rb") as requests:
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


def _die_with(lifeline: int) -> None:
    """End by SIGIO as soon as the kernel closes the other end, which nothing is ever written to.

    However the other side ended, and whatever a decoder is doing: a thread would wait for the lock.
    """
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)


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
