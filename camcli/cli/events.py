"""What `camcli explain` says on stderr: sentences for people, or one JSON line an event.

The events of `--log-format json`, each with `event` and `time` (UTC); `counts` has found,
explained, failed, changed, already_done, failed_earlier, redrawn and ignored:

- started: version, output
- explained: path, key, path_b64 (where the path is no text), index, label, probability (with
  --verbose, as in text)
- failed: path, key (path_b64), error {type, message, stage, transient}
- progress: counts (every half minute)
- planned: pending, reasons (--dry-run)
- remark: message (what was assumed about the model, what the maps are worth)
- stopped: reason (a signal, an option, closed pipe)
- error: error {type, message} (what ended the command)
- finished: exit_status, counts, seconds, output; the last line

Where several processes share a run (--device cuda:all), each line of theirs has `shard` too, what
is no event of theirs is a remark, an error {type ShardError} says what ended one of them, and the
last line, finished, has `shards` {done, count, inputs} in place of counts and seconds. Tasks of
--ray are told of as one run, but for those errors.

--quiet leaves failed, error, and finished where the exit status is not 0.
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import camcli
from camcli.cli.console import Progress, complain, progress, say, shown
from camcli.errors import CamcliError

if TYPE_CHECKING:
    from camcli.config import Config
    from camcli.outputs.record import Record
    from camcli.run import Summary
    from camcli.shard import Shard

LOG_JSON = "json"


class Sentences:
    """For people."""

    def __init__(self, chosen: Config) -> None:
        from camcli.run import Summary

        self.chosen, self.summary = chosen, Summary()

    def started(self) -> None:
        """Nothing: who types a command sees that."""

    def remark(self, sentence: str) -> None:
        """What should be known of the run."""
        say(sentence)

    def progress(self) -> AbstractContextManager[Progress]:
        """What counts inputs while the run works."""
        return progress(self.chosen.quiet, self.chosen.progress)

    def record(self, record: Record, bar: Progress) -> None:
        """One more input is done."""
        bar.advance()
        if record["status"] == "error":
            complain(f"{record['path']}: {record['error']['message']}")
        elif self.chosen.verbose:
            best = record["predictions"][0]
            say(f"{shown(record['path'])}: {shown(best['label'])} {best['probability']:.2f}")

    def advanced(self, count: int, bar: Progress) -> None:
        """So many more inputs are done, by other processes."""
        bar.advance(count)

    def planned(self, reasons: Counter[str]) -> None:
        """What would be explained, and why."""
        summary = self.summary
        redrawn = f", {summary.redrawn:,} would be redrawn" if summary.redrawn else ""
        say(
            f"camcli: {reasons.total():,} would be explained, {summary.already_done:,} already "
            f"done, {summary.failed_earlier:,} failed earlier{redrawn}"
        )
        if reasons:
            say(f"camcli: {', '.join(f'{n:,} {reason}' for reason, n in reasons.items())}")

    def finished(self, status: int) -> None:
        """The closing lines: counts, what the maps are worth, where to look."""
        if self.chosen.quiet:
            return
        summary = self.summary
        counts = [f"{summary.done:,} explained"]
        others = "other file" if summary.ignored == 1 else "other files"
        for number, what in (
            (summary.failed, "failed"),
            (summary.changed, "changed since an earlier run"),
            (summary.already_done, "already done"),
            (summary.failed_earlier, "failed in an earlier run (--retry-failed tries again)"),
            (summary.redrawn, "redrawn"),
            (summary.ignored, f"{others} ignored"),
        ):
            if number:
                counts.append(f"{number:,} {what}")
        speed = f" in {summary.seconds:.1f} s" if summary.done + summary.failed else ""
        say(f"camcli: {', '.join(counts)}{speed}: {shown(str(self.chosen.output))}")
        if summary.stopped and summary.stopped != "closed pipe":
            say(f"camcli: stopped by {summary.stopped}; the same command goes on from here")
        for sentence in (*self.summary.remarks, *self.summary.verdict):
            say(shown(sentence))

    def overheard(self, shard: Shard, line: str) -> None:
        """What a process of several says."""
        say(f"[{shard}] {line}")

    def trouble(self, shard: Shard, message: str) -> None:
        """What ended a shard, while others go on."""
        complain(f"shard {shard}: {message}")

    def together(self, status: int, done: int, count: int, inputs: int, by: str) -> None:
        """How far several processes came with their shards; `by` names the signal that ended it."""
        if self.chosen.quiet:
            return
        say(
            f"camcli: {done} of {count} shards are done, with {inputs:,} inputs: "
            f"{shown(str(self.chosen.output))}"
        )
        if by:
            say(f"camcli: stopped by {by}; the same command goes on from here")

    def error(self, error: CamcliError) -> None:
        """What ended the command."""
        complain(str(error))


class Events(Sentences):
    """For machines."""

    def started(self) -> None:
        if not self.chosen.quiet:
            self._event("started", version=camcli.__version__, output=self.chosen.output)

    def remark(self, sentence: str) -> None:
        self._event("remark", message=sentence.removeprefix("camcli: "))

    def progress(self) -> AbstractContextManager[Progress]:
        plain = self.chosen.progress and not self.chosen.quiet
        return nullcontext(Progress(None, plain))

    def record(self, record: Record, bar: Progress) -> None:
        named = {name: record[name] for name in ("path", "key", "path_b64") if name in record}
        if record["status"] == "error":
            self._event("failed", **named, error=record["error"])
        elif self.chosen.verbose:
            best = record["predictions"][0]
            wanted = {name: best[name] for name in ("index", "label", "probability")}
            self._event("explained", **named, **wanted)
        if bar.due():
            self._event("progress", counts=_counts(self.summary))

    def advanced(self, count: int, bar: Progress) -> None:
        if bar.due():
            self._event("progress", counts=_counts(self.summary))

    def planned(self, reasons: Counter[str]) -> None:
        self._event("planned", pending=reasons.total(), reasons=dict(reasons))
        self.finished(0)

    def finished(self, status: int) -> None:
        if self.chosen.quiet and status == 0:
            return
        if not self.chosen.quiet:
            for sentence in (*self.summary.remarks, *self.summary.verdict):
                self.remark(sentence)
            if self.summary.stopped:
                self._event("stopped", reason=self.summary.stopped)
        self._event(
            "finished",
            exit_status=status,
            counts=_counts(self.summary),
            seconds=round(self.summary.seconds, 3),
            output=self.chosen.output,
        )

    def overheard(self, shard: Shard, line: str) -> None:
        try:
            event = json.loads(line)
            said = {"event": event.pop("event"), "time": event.pop("time")}
        except (ValueError, AttributeError, KeyError):  # of a library, or a traceback
            self._event("remark", shard=str(shard), message=line)
        else:
            say(json.dumps(said | {"shard": str(shard)} | event, ensure_ascii=True))

    def trouble(self, shard: Shard, message: str) -> None:
        error = {"type": "ShardError", "message": message}
        self._event("error", shard=str(shard), error=error)

    def together(self, status: int, done: int, count: int, inputs: int, by: str) -> None:
        if self.chosen.quiet and status == 0:
            return
        if by and not self.chosen.quiet:
            self._event("stopped", reason=by)
        shards = {"done": done, "count": count, "inputs": inputs}
        self._event("finished", exit_status=status, shards=shards, output=self.chosen.output)

    def error(self, error: CamcliError) -> None:
        self._event("error", error={"type": type(error).__name__, "message": str(error)})
        self.finished(error.exit_status)

    def _event(self, name: str, **fields: Any) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"event": name, "time": time} | fields
        say(json.dumps(line, ensure_ascii=True, default=_plain))


def _counts(summary: Summary) -> dict[str, int]:
    return {
        "found": summary.found,
        "explained": summary.done,
        "failed": summary.failed,
        "changed": summary.changed,
        "already_done": summary.already_done,
        "failed_earlier": summary.failed_earlier,
        "redrawn": summary.redrawn,
        "ignored": summary.ignored,
    }


def _plain(value: Path) -> str:
    return str(value)
