"""`camcli explain` in processes that are quick to start, so that many can be killed."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Sequence

import camcli.engine
import camcli.models.opening
from camcli.cli.app import main
from camcli.models.fallback import import_torchvision
from camcli.outputs import commits

import_torchvision()
assert camcli.engine
assert camcli.models.opening


def _command(arguments: Sequence[str], interval: float) -> None:
    commits.FIRST = commits.LONGEST = interval
    sys.argv = ["camcli", *arguments]
    main()


def started(arguments: Sequence[str], interval: float) -> multiprocessing.Process:
    """The command line, forked from a process that has loaded torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_command, args=(arguments, interval))
    process.start()
    return process  # type: ignore[return-value]
