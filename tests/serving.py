"""Runs of camcli that a process with torch loaded forks, one server for each test process."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import client

HERE = Path(__file__).parent
_PATIENCE = 60.0


@dataclass(frozen=True)
class Ended:
    """How a run ended, and what it said."""

    status: int
    stdout: str
    stderr: str


class Server:
    """Starts runs from a process that has torch loaded."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self._count = scratch, 0
        self.shim = _compiled(scratch)
        preload = {"LD_PRELOAD": str(self.shim)} if self.shim else {}
        self._environment = os.environ | preload | {"OMP_NUM_THREADS": "1"}
        self.socket = str(scratch / "socket")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.served", self.socket],
            cwd=HERE.parent,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def start(
        self, *arguments: object, environment: dict[str, str | None] | None = None, **options: Any
    ) -> Started:
        """A run with nothing on stdin; `stdout` and `stderr` may be other files than its own."""
        self._count += 1
        names = {name: str(self.scratch / f"{self._count}.{name}") for name in ("stdout", "stderr")}
        names = {name: str(options.pop(name, path)) for name, path in names.items()}
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        streams = [os.open(os.devnull, os.O_RDONLY), *(os.open(n, append) for n in names.values())]
        wanted = {"interval": 0.02, "cwd": str(options.pop("cwd", self.scratch))} | options
        changed = self._environment | (environment or {})
        wanted["environment"] = {k: v for k, v in changed.items() if v is not None}
        wanted["arguments"] = [os.fspath(a) if isinstance(a, os.PathLike) else str(a)
                               for a in arguments]  # fmt: skip
        try:
            connection, pid = client.asked(self.socket, wanted, streams)
        finally:
            for descriptor in streams:
                os.close(descriptor)
        return Started(connection, pid, Path(names["stdout"]), Path(names["stderr"]))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


@dataclass(frozen=True)
class Started:
    """A run in progress, the first of a process group of its own."""

    connection: socket.socket
    pid: int
    stdout: Path
    stderr: Path

    def signal(self, number: int, group: bool = False) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            (os.killpg if group else os.kill)(self.pid, number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> Ended:
        """How it ended; one that hangs is killed."""
        with self.connection:
            self.connection.settimeout(_PATIENCE)
            status = client.number(self.connection)
        texts = [path.read_text() if path.is_file() else "" for path in (self.stdout, self.stderr)]
        return Ended(status, *texts)


def _compiled(scratch: Path) -> Path | None:
    """The library that makes system calls fail, where it can be had."""
    if sys.platform != "linux" or not shutil.which("gcc"):
        return None
    shim = scratch / "faulty.so"
    source = HERE / "faults" / "faulty.c"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O1", source, "-o", shim, "-ldl"], check=True)
    return shim
