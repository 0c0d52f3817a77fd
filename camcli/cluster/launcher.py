"""One process for each device, each with its shard of a run, into one output directory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from camcli.errors import ModelError
from camcli.shard import Shard

# The worst first; what is in none of them is worse still.
_FATAL, _FAILURES = 1, 3
_ORDER = (_FATAL, 2, 75, 130, 143, 129, _FAILURES, 4, 0)
_ASKED_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def visible_gpus() -> list[str]:
    """The names of the GPUs that torch sees, asked in a process of its own; a ModelError if none.

    That spares this one some hundred megabytes, and a GPU's context.
    """
    code = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run(
        [*_python(), "-c", code],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if asked.returncode or not int(asked.stdout):
        reason = (asked.stderr.strip().splitlines() or ["torch sees no GPU"])[-1]
        raise ModelError(f"--device cuda:all cannot be used ({reason}); see camcli doctor")
    return [f"cuda:{number}" for number in range(int(asked.stdout))]


def _python() -> list[str]:
    """The interpreter, to which modules in the working folder are no more than they are here."""
    here = {"", os.getcwd()} & set(sys.path)
    return [sys.executable] if here else [sys.executable, "-P"]


def command(arguments: Sequence[str], own: Sequence[str]) -> list[str]:
    """`python -m camcli` with the user's arguments, in which the last of an option counts."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    own = (f"--parent={os.getpid()}", *own)
    return [*_python(), "-m", "camcli", *arguments[:end], *own, *arguments[end:]]


@dataclass(frozen=True)
class Part:
    """One process of a run: its shard and its device."""

    shard: Shard
    device: str

    def command(self, arguments: Sequence[str], workers: int) -> list[str]:
        """What runs it."""
        own = (f"--device={self.device}", f"--shard={self.shard}", f"--workers={workers}")
        return command(arguments, own)


@dataclass
class Fleet:
    """The processes of a run, from start to end. Signals may come from another thread."""

    parts: Sequence[Part]
    say: Callable[[Shard, str], None]
    """Takes each line of a process's stderr."""
    emit: Callable[[bytes], bool] | None
    """Takes each line of a process's stdout; False where nobody reads on."""
    fail_fast: bool = False
    ended: dict[Shard, int] = field(default_factory=dict)
    """The exit status of each process that has ended, negative for a signal."""
    _running: dict[Shard, subprocess.Popen[bytes]] = field(default_factory=dict)
    _told_to_end: bool = False
    _gave_up: bool = False
    _heard: bool = True
    _fault: BaseException | None = None
    _speaking: threading.Lock = field(default_factory=threading.Lock)

    def run(self, arguments: Sequence[str], workers: int | None, stdin: Path | None) -> int:
        """Start them all, wait for them, and return the worst status.

        `stdin` is a file that each reads from its beginning. Raises what `emit` raised.
        """
        cores = max(1, (os.cpu_count() or 1) // len(self.parts))
        # Threads of all of them on every core would wait for each other.
        environment = {"OMP_NUM_THREADS": str(cores)} | os.environ
        threads = []
        for part in self.parts:
            if self._told_to_end:
                break
            with open(stdin or os.devnull, "rb") as file:
                process = subprocess.Popen(
                    part.command(arguments, workers or cores),
                    stdin=file,
                    stdout=subprocess.DEVNULL if self.emit is None else subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=environment,
                    # A terminal's signals come to this process, which hands them on once.
                    start_new_session=True,
                )
            self._running[part.shard] = process
            if self._told_to_end:  # just now, when it was not yet among them
                process.terminate()
            thread = threading.Thread(target=self._attend, args=(part.shard, process))
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
        if self._fault is not None:
            raise self._fault
        told = (143, -signal.SIGTERM) if self._gave_up else ()
        return worst(status for status in self.ended.values() if status not in told)

    @property
    def killed(self) -> Iterator[tuple[Part, signal.Signals]]:
        """Those that a signal ended, unless all were told to end."""
        for part in self.parts:
            status = self.ended.get(part.shard, 0)
            if status < 0 and not self._told_to_end:
                yield part, signal.Signals(-status)

    def tell(self, number: int) -> None:
        """Hand a signal on; the processes finish what is in flight."""
        self._told_to_end = True
        for process in list(self._running.values()):
            process.send_signal(number)

    def kill(self) -> None:
        """End them at once."""
        for process in list(self._running.values()):
            process.kill()

    def _attend(self, shard: Shard, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        reader = threading.Thread(target=self._hand_on, args=(process.stdout,))
        reader.start()
        for raw in process.stderr:
            # Where nobody listens any more, the process is read on, or it would wait.
            with self._speaking, suppress(OSError):
                self.say(shard, raw.decode(errors="backslashreplace").rstrip())
        reader.join()
        self.ended[shard] = status = process.wait()
        process.stderr.close()
        if self.fail_fast and status == _FAILURES and not self._told_to_end:
            self._gave_up = True
            self.tell(signal.SIGTERM)

    def _hand_on(self, stdout: IO[bytes] | None) -> None:
        """Whole lines, so that those of several processes do not mix."""
        if stdout is None or self.emit is None:
            return
        with stdout:
            for line in stdout:
                try:
                    with self._speaking:
                        self._heard = self._heard and self.emit(line)
                    if not self._heard:
                        return
                except BaseException as error:
                    self._fault = self._fault or error
                    self.tell(signal.SIGTERM)
                    return


def worst(statuses: Iterable[int]) -> int:
    """The status of a run whose processes ended with these; a crash is fatal."""
    plain = [
        status if status >= 0 else 128 - status if -status in _ASKED_TO_END else _FATAL
        for status in statuses
    ]
    place = {status: place for place, status in enumerate(_ORDER)}
    return min(plain, key=lambda status: place.get(status, -1), default=0)
