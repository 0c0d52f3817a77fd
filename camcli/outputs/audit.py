"""Every output of a run against its journal: nothing missing, nothing damaged, nothing extra."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from camcli.errors import OutputError
from camcli.outputs import journal, manifest, paths
from camcli.outputs.checks import REMARKS, Checks, Finding, Kind, parsed
from camcli.outputs.files import output_error, temporaries
from camcli.outputs.ledger import Ledger
from camcli.outputs.render import EXTENSION
from camcli.outputs.stored import TARS, Stored, is_tar, member, samples
from camcli.shard import WHOLE, Shard, place

_DIGESTS = (("config_hash", "identity"), ("drawing_hash", "drawing"), ("request_hash", "request"))
_AT_ONCE = 1000
_EXTENSIONS = {"json": (".json",), "maps": (".npz",), "overlays": tuple(EXTENSION.values())}


class Audit:
    """One pass over an output directory, of all shards. Hold its lock while it works.

    Only digests of the keys are held, so that a million inputs fit in memory.
    """

    def __init__(
        self,
        directory: Path,
        deep: bool = False,
        fix: bool = False,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        """`fix` has damaged pictures explained again by the next run, and removes what no journal
        line owns. `advance` is called for every picture. UsageError where there is no run.
        """
        self.runs = manifest.require_all(directory)
        first = next(iter(self.runs))
        Ledger(directory, first).check()
        self.directory, self.fix, self._count = directory, fix, first.count
        self._checks: dict[Shard, Checks] = {}
        methods: set[str] = set()
        for shard, run in self.runs.items():
            try:
                hashes = frozenset([run["config_hash"], *run.get("earlier_config_hashes", ())])
                self._checks[shard] = Checks(directory, frozenset(run["write"]), hashes, deep)
                methods.update(re.escape(method["name"]) for method in run["methods"])
            except (KeyError, TypeError) as error:
                raise OutputError(
                    f"'{directory / shard.run_file}' is damaged ({error!r}); {_start_over(shard)}"
                ) from error
        self.counts: Counter[Kind] = Counter()
        self.pictures = self.failed = self.waiting = 0
        """Inputs that are done, that failed, and that are to be explained again."""
        self.marked = self.removed = 0
        self._journals: dict[Shard, journal.LastLines] = {}
        self._counted: set[str] = set()
        self._advance = advance
        self._suffix = re.compile(rf"({'|'.join(sorted(methods))})\..+")
        self._overlays = lru_cache(64)(self._overlays_of)

    @property
    def faults(self) -> int:
        """How much was found that is not as it was written."""
        return sum(number for kind, number in self.counts.items() if kind not in REMARKS)

    @property
    def unreadable(self) -> int:
        """How many lines of the journals are no entries."""
        return sum(lines.unreadable for lines in self._journals.values())

    @property
    def finished(self) -> bool:
        """Whether every shard has been started, and none was stopped or killed."""
        statuses = [run.get("status") for run in self.runs.values()]
        return len(statuses) == self._count and not {"running", "stopped"} & {*statuses}

    def findings(self) -> Iterator[Finding]:
        """Everything that is not as the journal says; with `fix` it is seen to on the way."""
        for findings in (self._manifest(), self._pictures(), self._extras(), self._tars()):
            for finding in findings:
                self.counts[finding.kind] += 1
                yield finding

    def _manifest(self) -> Iterator[Finding]:
        for shard, run in self.runs.items():
            for name, content in _DIGESTS:
                if manifest.digest(run.get(content, {})) != run.get(name):
                    message = f"{content} does not agree with {name}; {_start_over(shard)}"
                    yield Finding("damaged", None, shard.run_file, message)

    def _pictures(self) -> Iterator[Finding]:
        for shard in self.runs:
            yield from self._pictures_of(shard)

    def _pictures_of(self, shard: Shard) -> Iterator[Finding]:
        appender = journal.Appender(self.directory / shard.journal)
        lost: list[dict[str, Any]] = []
        counting = _Counting(self.directory)
        try:
            for line in self._lines(shard):
                yield from counting.superseded(line)
                self._advance()
                if line["status"] == journal.LOST:
                    self.waiting += 1
                    continue
                self.pictures += line["status"] == "ok"
                self.failed += line["status"] != "ok"
                found = [*self._of_line(line, shard)]
                yield from found
                faults = [f for f in found if f.kind in ("missing", "damaged")]
                if faults and self.fix:
                    self.marked += 1
                    lost.append(_lost(line, faults[0]))
                    if len(lost) == _AT_ONCE:
                        appender.append(*lost)
                        lost.clear()
            if lost:
                appender.append(*lost)
            yield from counting.superseded()
            self._counted |= counting.tars
        finally:
            appender.close()

    def _lines(self, shard: Shard) -> journal.LastLines:
        """Those of its journal, which may be there although its run file is not."""
        if shard not in self._journals:
            self._journals[shard] = journal.LastLines(self.directory / shard.journal)
        return self._journals[shard]

    def _known(self, key: str) -> bool:
        """Whether a journal has a line for an input."""
        return key in self._lines(Shard(place(key, self._count), self._count))

    def _of_line(self, line: dict[str, Any], shard: Shard) -> Iterator[Finding]:
        key = line["key"]
        if not _is_key(key) or line["status"] not in ("ok", "error"):
            message = "its line in the journal is none of camcli"
            yield Finding("damaged", key, shard.journal, message)
            return
        for finding in self._checks[shard].findings(line):
            yield self._removed(finding) if finding.kind == "extra" else finding

    def _extras(self) -> Iterator[Finding]:
        """What no journal line owns; foreign files are told apart by their names and left."""
        for path in temporaries(self.directory):
            name = path.relative_to(self.directory).as_posix()
            yield self._removed(Finding("temporary", None, name, "left by a run that was killed"))
        for kind in _EXTENSIONS:
            for name in _files(self.directory / kind, kind):
                if name.rpartition("/")[2].startswith(WHOLE.temporary) or self._owned(kind, name):
                    continue
                if self._like_ours(kind, name):
                    message = "no line of the journal owns it"
                    yield self._removed(Finding("extra", None, name, message))
                else:
                    yield Finding("foreign", None, name, "it is none of camcli's")

    def _tars(self) -> Iterator[Finding]:
        """Tars of which no line of the journal counts."""
        for name in _files(self.directory / TARS, TARS):
            tar = name.removeprefix(f"{TARS}/")
            if tar in self._counted or tar.startswith(WHOLE.temporary):
                continue
            if not is_tar(tar):
                yield Finding("foreign", None, name, "it is none of camcli's")
            elif any(tar in lines.tars for lines in self._journals.values()):
                message = "everything in it was explained again since"
                yield self._removed(Finding("superseded", None, name, message))
            else:
                yield self._removed(Finding("extra", None, name, "no line of the journal owns it"))

    def _owned(self, kind: str, name: str) -> bool:
        inner = name.removeprefix(f"{kind}/")
        if kind != "overlays":
            extension = _EXTENSIONS[kind][0]
            return inner.endswith(extension) and self._known(inner.removesuffix(extension))
        for dot in re.finditer(r"\.", inner):
            key = inner[: dot.start()]
            if self._known(key):
                known = self._overlays(key)
                if name in known if known is not None else self._suffix.match(inner, dot.end()):
                    return True
        return False

    def _overlays_of(self, key: str) -> set[str] | None:
        """The overlays that a picture's record names; None where it cannot say."""
        try:
            path = paths.json_path(key).as_posix()
            record = parsed((self.directory / path).read_bytes(), path)
            if record["key"] != key:
                return None
            if record["status"] == "error":
                return set() if record["sha256"] else None
            return paths.overlays_of(record, key)
        except Exception:  # found and said before
            return None

    def _like_ours(self, kind: str, name: str) -> bool:
        """Whether camcli names its outputs so."""
        if not name.endswith(_EXTENSIONS[kind]):
            return False
        return kind != "overlays" or any(
            self._suffix.match(name, dot.end()) for dot in re.finditer(r"\.", name)
        )

    def _removed(self, finding: Finding) -> Finding:
        if self.fix:
            try:
                (self.directory / finding.path).unlink(missing_ok=True)
            except OSError as error:
                raise output_error(self.directory, error) from error
            self.removed += 1
        return finding


class _Counting:
    """Which of what is in tars counts, found line by line: those of one tar follow each other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.tars: set[str] = set()
        """Those in which something counts."""
        self._tar: str | None = None
        self._own: set[str] = set()

    def superseded(self, line: dict[str, Any] | None = None) -> Iterator[Finding]:
        """Take a line, or that there is none left; what in the tar before it does not count."""
        tar = None if line is None else Stored.of_line(self._directory, line).tar
        if tar != self._tar:
            yield from self._others()
            self._tar, self._own = tar, set()
        if tar is not None and line is not None:
            self.tars.add(tar)
            self._own.add(member(line["key"], ""))

    def _others(self) -> Iterator[Finding]:
        if self._tar is None or not is_tar(self._tar):
            return
        try:
            found = samples(os.path.join(self._directory, TARS, self._tar))
        except OSError:  # told of each picture in it
            return
        for name in found:
            if name not in self._own:
                message = "a later copy counts, or none"
                yield Finding("superseded", unquote(name), f"{TARS}/{self._tar}/{name}", message)


def _start_over(shard: Shard) -> str:
    if shard == WHOLE:
        return "start over with camcli explain --overwrite"
    return "start over in another directory"


def _lost(line: dict[str, Any], fault: Finding) -> dict[str, Any]:
    """The journal line of a picture that is to be explained again."""
    return {
        "key": line["key"],
        "source": line.get("source"),
        "status": journal.LOST,
        "size": None,
        "mtime_ns": None,
        "sha256": line.get("sha256"),
        "error": f"{fault.path}: {fault.message}",
        "config_hash": line.get("config_hash"),
    }


def _is_key(key: str) -> bool:
    """Whether outputs can be filed under it, inside of the output directory."""
    return "\0" not in key and all(part not in ("", ".", "..") for part in key.split("/"))


def _files(folder: Path, name: str) -> Iterator[str]:
    """The files below a folder, none of them held."""
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    with entries:
        for entry in entries:
            inner = f"{name}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder / entry.name, inner)
            else:
                yield inner
