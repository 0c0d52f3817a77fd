"""A process that has loaded torch and forks one `camcli` for each connection to its socket.

So a run starts in milliseconds, with whatever surroundings a test wants: limits, no powers, a
working directory that is gone, system calls that fail (`faults/faulty.c`). `client.py` is the
other side.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

import camcli.engine
import camcli.models.opening
from camcli.cli.app import main
from camcli.models.fallback import import_torchvision
from camcli.outputs import commits

_CAPABILITIES = 0x20080522  # the version of the structures of capset(2)
_STREAMS = 3

import_torchvision()
assert camcli.engine
assert camcli.models.opening


def _powerless() -> None:
    """Root without its powers: permissions count as for anybody."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _become(wanted: dict[str, Any], streams: list[int]) -> None:
    """What a test wants of the process, as the shell that starts it would have arranged it."""
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["cwd"])
    if wanted["lost_cwd"]:
        os.rmdir(wanted["cwd"])
    for name, most in wanted["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if wanted["powerless"] and os.geteuid() == 0:
        _powerless()
    if wanted["interval"] is not None:
        commits.FIRST = commits.LONGEST = wanted["interval"]
    if wanted["unordered"]:
        commits.Disk.sync = lambda disk, names: None  # type: ignore[method-assign]
    sys.argv = ["camcli", *wanted["arguments"]]


def _run(wanted: dict[str, Any], streams: list[int]) -> NoReturn:
    status = 1
    try:
        _become(wanted, streams)
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except KeyboardInterrupt:  # before camcli listens: as the interpreter has it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except OSError:
                status = 120  # as the interpreter has it
        os._exit(status)


def _attend(connection: socket.socket) -> None:
    """Run what is asked for; tell its number, then its exit status. It ends with its client."""
    _, streams, _, _ = socket.recv_fds(connection, 1, _STREAMS)
    with connection.makefile("rb") as file:
        wanted = json.loads(file.readline())
    pid = os.fork()
    if pid == 0:
        connection.close()
        _run(wanted, streams)
    for descriptor in streams:
        os.close(descriptor)
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % pid)
    ended = os.pidfd_open(pid)
    if ended not in select.select([ended, connection], [], [])[0]:
        os.kill(pid, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with contextlib.suppress(BrokenPipeError):
        connection.sendall(b"%d\n" % status)


def _serve(path: str) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which background jobs ignore
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup ignores
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those who attend
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while sys.stdin not in (awake := select.select([listening, sys.stdin], [], [])[0]):
            assert awake
            connection, _ = listening.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listening.close()
                _attend(connection)
                os._exit(0)
            connection.close()


if __name__ == "__main__":
    _serve(sys.argv[1])
