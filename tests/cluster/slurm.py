"""A Slurm of one node, of this machine's munged, slurmctld and slurmd, while a test needs it.

    python -m tests.cluster.slurm > slurm.log

runs the tests that use it and prints every command with what it said. In Debian:
apt-get install --no-install-recommends slurmctld slurmd slurm-client munge
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol", "sinfo")
_PATIENCE = 300.0
# No control groups, which containers seldom have, and a requeued job starts at once.
_CONFIGURATION = """\
ClusterName=camcli
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here; "" where there can."""
    absent = [program for program in PROGRAMS if _found(program) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install slurmctld slurmd slurm-client munge"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@dataclass(frozen=True)
class Slurm:
    """A Slurm that runs; jobs start in `folder`."""

    folder: Path
    environment: Mapping[str, str]

    def tell(self, *command: object, status: int = 0) -> str:
        """Run a command, print it with what it says, and return that."""
        given = [str(part) for part in command]
        print("$", *given, flush=True)
        done = subprocess.run(given, cwd=self.folder, env=self.environment, text=True, check=False,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=_PATIENCE)  # fmt: skip
        print(done.stdout, end="", flush=True)
        assert done.returncode == status, done.stdout
        return done.stdout.strip()

    def submit(self, *arguments: object) -> str:
        """The number of a job or a job array."""
        return self.tell("sbatch", "--parsable", *arguments)

    def ended(self, job: str) -> dict[str, str]:
        """Wait until all its tasks have ended, and return what became of each, with its status."""
        until(lambda: not self.asked("squeue", "--noheader", "--jobs", job), f"the end of {job}")
        states = {}
        for line in self.asked("scontrol", "--oneliner", "show", "job", job).splitlines():
            facts = dict(word.split("=", 1) for word in line.split() if "=" in word)
            task = facts.get("ArrayTaskId", "")
            states[task] = f"{facts['JobState']} {facts['ExitCode']}"
            print(f"job {job} {task}: {states[task]}, started again {facts['Restarts']} times")
        return states

    def asked(self, *command: str) -> str:
        """What a command says; "" where it cannot yet."""
        done = subprocess.run(command, env=self.environment, text=True, check=False,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        return done.stdout.strip()


def until(holds: Callable[[], object], what: str) -> None:
    """Wait for something that other processes do."""
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < deadline, f"waited {_PATIENCE:.0f} s for {what}"
        time.sleep(0.1)


@contextmanager
def started(folder: Path, cpus: int, environment: Mapping[str, str]) -> Iterator[Slurm]:
    """A Slurm whose one node is said to have so many processors; at the end all of it is gone.

    `folder` is short: a socket's path has 108 bytes at most.
    """
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    munge = folder / "munge"
    munge.chmod(0o711)
    (munge / "key").touch(mode=0o600)
    (munge / "key").write_bytes(os.urandom(1024))
    facts = {"host": socket.gethostname().partition(".")[0], "folder": folder, "cpus": cpus}
    ports = dict(zip(("controller_port", "node_port"), _free_ports(2), strict=True))
    (folder / "slurm.conf").write_text(_CONFIGURATION.format(**facts, **ports))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    slurm = Slurm(folder, {**environment, "SLURM_CONF": str(folder / "slurm.conf")})
    names = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log",
             "seed-file": "seed"}  # fmt: skip
    options = [f"--{option}={munge / name}" for option, name in names.items()]
    with ExitStack() as running:
        running.enter_context(_daemon(slurm, "munged", "--foreground", "--force", *options))
        until((munge / "socket").exists, "munged")
        running.enter_context(_daemon(slurm, "slurmctld", "-D"))
        running.enter_context(_daemon(slurm, "slurmd", "-D"))
        idle = ("sinfo", "--noheader", "--format=%t")
        until(lambda: slurm.asked(*idle) == "idle", f"the node to be idle: {folder}/*.out")
        slurm.tell("sinfo", "--version")
        try:
            yield slurm
        finally:  # while there is still one who can end the jobs
            slurm.tell("scancel", "--user=root")
            until(lambda: not slurm.asked("squeue", "--noheader"), "the jobs to end")


@contextmanager
def _daemon(slurm: Slurm, name: str, *options: str) -> Iterator[None]:
    with (slurm.folder / f"{name}.out").open("wb") as said:
        process = subprocess.Popen([str(_found(name)), *options], env=slurm.environment,
                                   cwd=slurm.folder, stdin=subprocess.DEVNULL, stdout=said,
                                   stderr=subprocess.STDOUT)  # fmt: skip
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _found(program: str) -> str | None:
    """Where a program is; daemons are seldom on a user's path."""
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> None:
    import pytest

    if reason := missing():
        sys.exit(reason)
    raise SystemExit(
        pytest.main(["-s", "-m", "slow", str(Path(__file__).with_name("test_slurm.py"))])
    )


if __name__ == "__main__":
    main()
