"""A process that has loaded torch and forks one `camcli` for each line it reads.

So a run starts in milliseconds, with whatever surroundings a test wants: limits, no powers, a
working directory that is gone, system calls that fail (`faulty.c`).
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import sys
import time
import traceback
from typing import Any, NoReturn

import camcli.engine
import camcli.models.opening
from camcli.cli.app import main
from camcli.models.fallback import import_torchvision
from camcli.outputs import commits

_CAPABILITIES = 0x20080522  # the version of the structures of capset(2)
_APPEND = os.O_CREAT | os.O_APPEND
_PATIENCE = 60.0

import_torchvision()
assert camcli.engine
assert camcli.models.opening


def _powerless() -> None:
    """Root without its powers: permissions count as for anybody."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    none = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, none) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _become(wanted: dict[str, Any]) -> None:
    """What a test wants of the process, as the shell that starts it would have arranged it."""
    os.setsid()
    for number, name in enumerate(("/dev/null", wanted["stdout"], wanted["stderr"])):
        descriptor = os.open(name, (os.O_WRONLY if number else os.O_RDONLY) | _APPEND, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    for name, value in wanted["environment"].items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    os.chdir(wanted["cwd"])
    if wanted["lost_cwd"]:
        os.rmdir(wanted["cwd"])
    for name, most in wanted["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if wanted["powerless"] and os.geteuid() == 0:
        _powerless()
    commits.FIRST = commits.LONGEST = wanted["interval"]
    if wanted["unordered"]:
        commits.Disk.sync = lambda disk, names: None  # type: ignore[method-assign]
    sys.argv = ["camcli", *wanted["arguments"]]


def _run(wanted: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        _become(wanted)
        main()
    except SystemExit as ended:
        status = int(ended.code or 0)
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


def _waited(pid: int) -> int:
    """The exit status of a run; one that hangs is killed."""
    end = time.monotonic() + _PATIENCE
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > end:
            os.kill(pid, 9)
        time.sleep(0.005)


def _serve() -> None:
    for line in sys.stdin:
        wanted = json.loads(line)
        if "wait" in wanted:
            answer = _waited(wanted["wait"])
        else:
            answer = os.fork()
            if answer == 0:
                _run(wanted)
        print(answer, flush=True)


if __name__ == "__main__":
    _serve()
