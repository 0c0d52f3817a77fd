"""A Ray cluster: joining it or starting one, and what a task may ask of it."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from camcli.errors import CamcliError, UsageError

LOCAL, AUTO = "local", "auto"
# Seconds: for a connection, and for an answer.
_REACH, _JOIN = 5.0, 45.0
_MOST_CPUS = 4


@contextmanager
def connected(address: str) -> Iterator[None]:
    """A cluster joined, or started; UsageError or CamcliError where it cannot be."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            f"--ray needs Ray, which cannot be imported ({error}); pip install 'camcli[ray]'"
        ) from error
    _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    import ray

    silent = {"log_to_driver": False, "logging_level": "CRITICAL"}
    if address == LOCAL:  # its processes end with the thread that starts them: this one
        try:
            ray.init(LOCAL, include_dashboard=False, **silent)
        except (OSError, RuntimeError, ValueError) as error:
            raise CamcliError(
                f"Ray cannot be started here ({first_line(error)}); see camcli doctor"
            ) from error
        return
    if address != AUTO:
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _REACH).close()
        except (OSError, OverflowError) as error:
            raise _unreached(address, first_line(error)) from error
    fault: list[Exception] = []

    def join() -> None:
        try:
            ray.init(address, **silent)
        except Exception as error:
            fault.append(error)

    # In a thread, because it would try for ever, and heed no signal meanwhile.
    joining = threading.Thread(target=join, daemon=True)
    joining.start()
    joining.join(_JOIN)
    if joining.is_alive():
        raise _unreached(address, f"no answer within {_JOIN:g} s")
    if fault:
        raise _unreached(address, first_line(fault[0])) from fault[0]


def first_line(error: Exception) -> str:
    """What went wrong, in short."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _unreached(address: str, why: str) -> CamcliError:
    return CamcliError(
        f"no Ray cluster can be reached at '{address}' ({why}); give HOST:PORT of its head, from "
        "one of its nodes, or --ray alone to start one here"
    )


class Need(NamedTuple):
    """What a task asks of its node."""

    cpus: int
    gpus: int
    device: str

    def __str__(self) -> str:
        return f"{self.cpus} CPU{'s' * (self.cpus > 1)}" + " and a GPU" * self.gpus


def needed(device: str, workers: int | None) -> tuple[Need, int]:
    """What each task needs of the cluster that is joined, and how many it holds at once.

    `device` is auto, cpu or cuda; `workers` as asked for. CamcliError where not even one fits.
    """
    every = _nodes()
    gpus = int(device != "cpu" and any(gpu for _, gpu in every))
    if device == "cuda" and not gpus:
        raise CamcliError("no node of the Ray cluster has a GPU; leave --device cuda out")
    if gpus:
        shares = [cpu // gpu for cpu, gpu in every if gpu]
    else:
        shares = [min(cpu, _MOST_CPUS) for cpu, _ in every if cpu]
    cpus = workers or max(1, min(shares, default=1))
    wanted = Need(cpus, gpus, "cuda" if gpus else "cpu")
    if not (room := held(wanted)):
        raise CamcliError(f"no node of the Ray cluster has {wanted}; see --workers and --device")
    return wanted, room


def held(need: Need) -> int:
    """How many tasks the nodes of the cluster hold at once."""
    return sum(min(cpu // need.cpus, gpu if need.gpus else cpu) for cpu, gpu in _nodes())


def _nodes() -> list[tuple[int, int]]:
    """The CPUs and GPUs of every node that is alive."""
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(int(r.get("CPU", 0)), int(r.get("GPU", 0))) for r in alive]
