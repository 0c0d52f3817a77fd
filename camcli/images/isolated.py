"""Decoding in processes of its own: a decoder that crashes or hangs costs one picture."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import numpy as np
from PIL import Image

from camcli.errors import CamcliError
from camcli.images import worker
from camcli.images.decode import DecodeSettings, failure
from camcli.images.geometry import Geometry
from camcli.records import Decoded, Failure, FileFacts, ImageRef

_START = (
    "import sys; channel, memory, *sys.path = sys.argv[1:]; "
    "from camcli.images.worker import main; main(int(channel), int(memory))"
)
_SECONDS_TO_START = 60.0
_SECONDS_TO_DIE = 5.0
_MEMORY_KEPT = 16 * 2**20  # bytes between two pictures
# The terminal and `timeout` signal a whole group of processes; what then happens to the pictures
# in flight is for the run to decide.
_FOR_THE_RUN = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class DecoderCrashError(Exception):
    """The process that was decoding a picture is gone."""

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class IsolatedDecoder:
    """Processes that decode; one that is lost is replaced.

    `decode` may be called from several threads.
    """

    def __init__(self, processes: int, timeout: float) -> None:
        """`timeout` is how many seconds a picture may take."""
        self._workers = [_Worker(timeout) for _ in range(processes)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for each in self._workers:
            self._idle.put(each)

    def __enter__(self) -> Self:
        for each in self._workers:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are doing."""
        for each in self._workers:
            each.end()

    def decode(
        self, ref: ImageRef, facts: FileFacts, data: bytes, settings: DecodeSettings
    ) -> Decoded | Failure:
        """The picture in a file's bytes, or why there is none."""
        process = self._idle.get()
        try:
            return process.decode(ref, facts, data, settings)
        except DecoderCrashError as lost:
            kind = type(lost).__name__
            return Failure(ref, facts, kind, str(lost), "decode", lost.transient)
        except (OSError, MemoryError) as error:  # on this side, or out of time
            return failure(ref, facts, error, "decode")
        finally:
            self._idle.put(process)


class _Worker:
    """One process, the socket it is told by, and the memory shared with it."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False

    def start(self) -> None:
        """Start the process, and do not wait for it."""
        memory = _shared_memory()
        ours, theirs = socket.socketpair()
        passed = theirs.fileno(), memory
        home = str(Path(__file__).parents[2])  # however this package came to be imported
        # -P: the folder that the run was started in may hold a numpy.py.
        command = [sys.executable, "-P", "-c", _START, *map(str, passed), *sys.path, home]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_RUN)  # which the child inherits
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=passed,
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            ours.close()
            os.close(memory)
            raise CamcliError(
                f"cannot start a process that decodes ({error.strerror}); "
                "--no-isolate decodes without"
            ) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        self._socket, self._memory, self._ready = ours, memory, False

    def decode(
        self, ref: ImageRef, facts: FileFacts, data: bytes, settings: DecodeSettings
    ) -> Decoded | Failure:
        """Have one picture decoded; a process that is lost over it is replaced."""
        self._await_start()
        worker.put(self._memory, data)
        try:
            self._socket.sendall(worker.request(len(data), settings))
            answer = json.loads(self._line(self._timeout))
            return self._outcome(ref, facts, answer, settings)
        except TimeoutError:
            self.end()
            self.start()
            said = f"not decoded within {self._timeout:g} s (--decode-timeout)"
            raise TimeoutError(said) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            status = self.end(_SECONDS_TO_DIE)
            self.start()
            raise _crash(status) from error

    def end(self, patience: float = 0.0) -> int | None:
        """Kill the process, unless it ends by itself; its exit status.

        One that waits for a disk that does not answer is left to the system.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        for seconds in (patience, _SECONDS_TO_DIE):
            try:
                process.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                process.kill()
        assert process.stdin is not None
        process.stdin.close()
        self._socket.close()
        os.close(self._memory)
        return process.returncode

    def _await_start(self) -> None:
        if self._process is None:
            self.start()
        if self._ready:
            return
        with contextlib.suppress(OSError):
            self._ready = self._line(_SECONDS_TO_START) == b"ready\n"
        if not self._ready:
            raise CamcliError("a process that decodes did not start; --no-isolate decodes without")

    def _line(self, seconds: float) -> bytes:
        """What it says next; TimeoutError once it has been silent for so long.

        Counted in short waits, so that a run that was stopped (Ctrl-Z) for an hour goes on.
        """
        waits = math.ceil(seconds)
        self._socket.settimeout(seconds / waits)
        line = b""
        while not line.endswith(b"\n"):
            try:
                part = self._socket.recv(65536)
            except TimeoutError:
                waits -= 1
                if not waits:
                    raise
                continue
            if not part:
                raise ConnectionResetError
            line += part
        return line

    def _outcome(
        self, ref: ImageRef, facts: FileFacts, answer: Any, settings: DecodeSettings
    ) -> Decoded | Failure:
        if "failure" in answer:
            kind, message, transient = answer["failure"]
            return Failure(ref, facts, kind, message, "decode", transient)
        width, height = settings.preprocessing.size
        view = np.empty((height, width, 3), np.uint8)
        worker.take(self._memory, view)
        canvas, size = None, answer["canvas"]
        if size is not None:
            pixels = bytearray(3 * size[0] * size[1])
            worker.take(self._memory, pixels, view.nbytes)
            canvas = Image.frombytes("RGB", tuple(size), pixels)
            if len(pixels) > _MEMORY_KEPT:
                os.ftruncate(self._memory, 0)
        geometry = Geometry(tuple(answer["source"]), (width, height), tuple(answer["box"]))
        return Decoded(ref, facts, answer["orientation"], geometry, view, canvas)


def _crash(status: int | None) -> DecoderCrashError:
    """How the process ended, in words."""
    if status == -signal.SIGKILL:
        said = "the decoder was killed (SIGKILL), as happens where memory runs out"
        return DecoderCrashError(said, transient=True)
    if status is not None and status < 0:
        return DecoderCrashError(f"the decoder crashed ({signal.Signals(-status).name})")
    return DecoderCrashError(f"the decoder ended with exit status {status}")


def _shared_memory() -> int:
    """A descriptor of memory without a name: nothing is left behind, however the run ends."""
    if sys.platform == "linux":
        return os.memfd_create("camcli-decoded")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
