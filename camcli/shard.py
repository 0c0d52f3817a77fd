"""One of the parts of a run that share an output directory, and what its files are called."""

from __future__ import annotations

import re
from dataclasses import dataclass

from camcli.errors import UsageError

# The folders that a run keeps in its output directory.
OUTPUTS = ("json", "maps", "overlays", "tars")
_RUN_FILE = re.compile(r"run(?:-(\d{3,9})-of-(\d{3,9}))?\.json", re.ASCII)


@dataclass(frozen=True, order=True)
class Shard:
    """Part `index` of `count`, from 0. The only part of one is a whole run."""

    index: int = 0
    count: int = 1

    @classmethod
    def parsed(cls, text: str, shown: str) -> Shard:
        """The shard of `I/N` or `none`; UsageError otherwise. `shown` names the setting."""
        if text == "none":
            return WHOLE
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None or int(found[1]) >= int(found[2]):
            raise UsageError(
                f"{shown} must be none or I/N, with I from 0 to N-1 for the N shards, not '{text}'"
            )
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def of_run_file(cls, name: str) -> Shard | None:
        """The shard whose run file has that name; None where it is another file's."""
        found = _RUN_FILE.fullmatch(name) if name.startswith("run") else None
        if found is None:
            return None
        return WHOLE if found[1] is None else cls(int(found[1]), int(found[2]))

    def holds(self, key: str) -> bool:
        """Whether an input is in this shard."""
        return self.count == 1 or place(key, self.count) == self.index

    def split(self, parts: int) -> tuple[Shard, ...]:
        """Finer shards in the place of this one, where every other is split alike."""
        finer = self.count * parts
        return tuple(Shard(self.index * parts + part, finer) for part in range(parts))

    @property
    def run_file(self) -> str:
        return f"run{self._suffix}.json"

    @property
    def journal(self) -> str:
        return f"results{self._suffix}.jsonl"

    def tar(self, number: int) -> str:
        """The name of its tar of this number."""
        return f"{number:06}{self._suffix}.tar"

    def number_of_tar(self, name: str) -> int | None:
        """The number of the tar of that name; None where it is another shard's."""
        found = re.fullmatch(rf"(\d{{6,}}){self._suffix}\.tar", name, re.ASCII)
        return None if found is None else int(found[1])

    @property
    def temporary(self) -> str:
        """How names of its temporary files begin; what a whole run sweeps includes all shards'."""
        return f".camcli-tmp{self._suffix}-"

    @property
    def lock(self) -> str:
        return f".camcli{self._suffix}.lock"

    @property
    def flight(self) -> str:
        return f".camcli{self._suffix}.flight"

    @property
    def _suffix(self) -> str:
        return f"-{self.index:03}-of-{self.count:03}" if self.count > 1 else ""

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def place(key: str, count: int) -> int:
    """Which of so many shards holds an input; its key alone decides, whatever other inputs are."""
    import hashlib  # which --help does not wait for

    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count


WHOLE = Shard()
