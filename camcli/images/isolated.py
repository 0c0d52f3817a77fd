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
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any, Self

import numpy as np
from PIL import Image

from camcli.errors import CamcliError
from camcli.images import worker
from camcli.images.decode import Decoder, DecodeSettings, failure, picture_of
from camcli.images.geometry import Geometry
from camcli.records import Decoded, Failure, FileFacts, ImageRef

_START = (
    "import sys; channel, *sys.path = sys.argv[1:]; "
    "from camcli.images.worker import main; main(int(channel))"
)
_SECONDS_TO_START = 120.0
_MEMORY_KEPT = 16 * 2**20  # bytes between two pictures
# The terminal and `timeout` signal a whole group of processes; what then happens to the pictures
# in flight is for the run to decide.
_FOR_THE_RUN = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


class DecoderCrashError(Exception):
    """The process that was decoding a picture is gone."""

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


@contextlib.contextmanager
def decoding(isolate: bool, processes: int, timeout: float) -> Iterator[Decoder]:
    """A decoder in processes of its own, or the one that works where it is called."""
    if not isolate:
        yield picture_of
        return
    with IsolatedDecoder(processes, timeout) as isolated:
        yield isolated.decode


class IsolatedDecoder:
    """Processes that decode; one that is lost is replaced.

    `decode` may be called from several threads.
    """

    def __init__(self, processes: int, timeout: float) -> None:
        """`timeout` is how many seconds a picture may take."""
        self._nursery = _Nursery()
        self._workers = [_Worker(self._nursery, timeout) for _ in range(processes)]
        self._idle: SimpleQueue[_Worker] = SimpleQueue()
        for each in self._workers:
            self._idle.put(each)

    def __enter__(self) -> Self:
        self._nursery.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are doing."""
        for each in self._workers:
            with contextlib.suppress(CamcliError):
                each.end()
        self._nursery.end()

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


class _Nursery:
    """The process that those that decode are forked from; it starts while others work."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._lock = Lock()

    def start(self) -> None:
        """Start the process, and do not wait for it."""
        self._socket, theirs = socket.socketpair()
        self._socket.settimeout(_SECONDS_TO_START)
        home = str(Path(__file__).parents[2])  # however this package came to be imported
        # -P: the folder that the run was started in may hold a numpy.py.
        command = [sys.executable, "-P", "-c", _START, str(theirs.fileno()), *sys.path, home]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_RUN)  # which the child inherits
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                # A thread of numpy's would not survive the fork.
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
        except OSError as error:
            self._socket.close()
            raise _unstarted(error.strerror) from error
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()

    def fork(self, descriptors: list[int]) -> int:
        """A new process that holds these descriptors; its number."""
        return self._told(worker.FORK, descriptors)

    def ended(self, pid: int) -> int:
        """The exit status of a process, which is killed if it has not ended by itself."""
        return self._told(str(pid).encode(), [])

    def end(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._socket.close()

    def _told(self, order: bytes, descriptors: list[int]) -> int:
        with self._lock:
            try:
                if not self._ready:
                    self._ready = self._socket.recv(len(worker.READY)) == worker.READY
                socket.send_fds(self._socket, [order], descriptors)
                return int(self._socket.recv(64))
            except (OSError, ValueError) as error:
                raise _unstarted("it has ended") from error


class _Worker:
    """One process that decodes, the socket it is told by, and the memory shared with it."""

    def __init__(self, nursery: _Nursery, timeout: float) -> None:
        self._nursery, self._timeout = nursery, timeout
        self._pid: int | None = None

    def decode(
        self, ref: ImageRef, facts: FileFacts, data: bytes, settings: DecodeSettings
    ) -> Decoded | Failure:
        """Have one picture decoded; a process that is lost over it is replaced by the next."""
        if self._pid is None:
            self._start()
        worker.put(self._memory, data)
        try:
            self._socket.sendall(worker.request(len(data), settings))
            answer = json.loads(self._line())
            return self._outcome(ref, facts, answer, settings)
        except TimeoutError:
            self.end()
            said = f"not decoded within {self._timeout:g} s (--decode-timeout)"
            raise TimeoutError(said) from None
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _crash(self.end()) from error

    def end(self) -> int:
        """Kill the process, if it has not ended by itself; its exit status."""
        if self._pid is None:
            return 0
        pid, self._pid = self._pid, None
        self._socket.close()
        os.close(self._memory)
        try:
            return self._nursery.ended(pid)
        finally:
            os.close(self._lifeline)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        memory, (lifeline, self._lifeline) = _shared_memory(), os.pipe()
        try:
            self._pid = self._nursery.fork([theirs.fileno(), memory, lifeline])
        except CamcliError:
            ours.close()
            os.close(memory)
            os.close(self._lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
        self._socket, self._memory = ours, memory

    def _line(self) -> bytes:
        """What it says next; TimeoutError once it has been silent for too long.

        Counted in short waits, so that a run that was stopped (Ctrl-Z) for an hour goes on.
        """
        waits = math.ceil(self._timeout)
        self._socket.settimeout(self._timeout / waits)
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


def _unstarted(why: str | None) -> CamcliError:
    return CamcliError(
        f"the process that decodes cannot be used ({why}); --no-isolate decodes without it"
    )


def _crash(status: int) -> DecoderCrashError:
    """How the process ended, in words."""
    if status == -signal.SIGKILL:
        said = "the decoder was killed (SIGKILL), as happens where memory runs out"
        return DecoderCrashError(said, transient=True)
    if status < 0:
        return DecoderCrashError(f"the decoder crashed ({signal.Signals(-status).name})")
    return DecoderCrashError(f"the decoder ended with exit status {status}")


def _shared_memory() -> int:
    """A descriptor of memory without a name: nothing is left behind, however the run ends."""
    if sys.platform == "linux":
        return os.memfd_create("camcli-decoded")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
