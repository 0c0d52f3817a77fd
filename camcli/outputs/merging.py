"""Making one run of the shards in a directory: one journal, one run.json."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from camcli.errors import UsageError
from camcli.outputs import journal, manifest
from camcli.outputs.files import ENTRANCE, atomic, output_error, sweep
from camcli.shard import WHOLE, Shard

Json = dict[str, Any]
_OF_A_SHARD = ("started", "ended", "argv", "cwd", "device", "batch_size", "counts", "timings",
               "verdict")  # fmt: skip


def merge(directory: Path) -> int:
    """Merge; the number of shards, 0 where it is one run already. Hold the directory's lock.

    Readers take run.json where there is one: until it is there they see the shards, whole, and
    from then on the merged run, whole. Raises UsageError where shards are missing or not done.
    """
    runs = manifest.require_all(directory)
    try:
        if WHOLE not in runs:
            _check(directory, runs)
            _write_journal(directory, runs)
            manifest.write(directory, _merged(runs))
        _clean_up(directory)
    except OSError as error:
        raise output_error(directory, error) from error
    return 0 if WHOLE in runs else len(runs)


def _check(directory: Path, runs: dict[Shard, Json]) -> None:
    count = next(iter(runs)).count
    missing = [Shard(i, count) for i in range(count) if Shard(i, count) not in runs]
    unfinished = [shard for shard, run in runs.items() if run["status"] != "done"]
    said = [f"{_named(shards)} {what}" for shards, what in
            ((missing, "not started"), (unfinished, "not finished")) if shards]  # fmt: skip
    if said:
        raise UsageError(
            f"'{directory}' cannot be merged yet: {' and '.join(said)}; run explain again with "
            f"--shard {(missing + unfinished)[0]}"
        )
    if len({manifest.digest(run["identity"] | {"batch size": 0}) for run in runs.values()}) > 1:
        raise UsageError(f"the shards in '{directory}' hold different maps and cannot be merged")


def _named(shards: list[Shard]) -> str:
    first = ", ".join(map(str, shards[:8]))
    more = f" and {len(shards) - 8} more" if len(shards) > 8 else ""
    return f"shard{'s' * (len(shards) > 1)} {first}{more} {'is' if len(shards) == 1 else 'are'}"


def _write_journal(directory: Path, runs: dict[Shard, Json]) -> None:
    """The last line of every input, in the order of a walk over one folder; where outputs are in
    tars, in theirs, so that readers open each of them once.
    """
    last: dict[bytes, int] = {}
    end = 0
    whole = atomic(directory / WHOLE.journal, durable=True)
    with tempfile.TemporaryFile(dir=directory) as pile, whole as file:
        for shard in runs:
            for key, raw in journal.committed(directory / shard.journal):
                last[key] = end
                end += pile.write(raw)
        tarred = any(run.get("sink") == "tar" for run in runs.values())
        for key in sorted(last, key=last.__getitem__ if tarred else lambda key: key.split(b"/")):
            pile.seek(last[key])
            file.write(pile.readline())


def _merged(runs: dict[Shard, Json]) -> Json:
    """One manifest: what shards share, the sums of what they counted, and each one's own."""
    every = list(runs.values())
    # That of the smallest batches: where memory ran out, the next run goes on with those.
    base = min(every, key=lambda run: int(run["batch_size"]))
    counts = {name: sum(run["counts"].get(name, 0) for run in every) for name in base["counts"]}
    written = set.intersection(*(set(run["write"]) for run in every))
    if len({run["drawing_hash"] for run in every}) > 1:
        written.discard("overlay")  # the next run that wants them draws them all alike
    # What a shard lacks that was killed after its last input.
    every = [{"timings": {}, "verdict": []} | run for run in every]
    # The records of each shard name what they were made with.
    earlier = {name for run in every
               for name in (run["config_hash"], *run.get("earlier_config_hashes", ()))}  # fmt: skip
    timings = {name for run in every for name in run["timings"]}
    verdict = dict.fromkeys(sentence for run in every for sentence in run["verdict"])
    return {name: value for name, value in base.items() if name != "shard"} | {
        "status": "done",
        "first_started": min(run["first_started"] for run in every),
        "started": min(run["started"] for run in every),
        "earlier_config_hashes": sorted(earlier - {base["config_hash"]}),
        "ended": max(run["ended"] for run in every),
        "write": sorted(written),
        # Every shard passes over the same other files.
        "counts": counts | {"ignored": max(run["counts"]["ignored"] for run in every)},
        "timings": {
            name: round(sum(run["timings"].get(name, 0.0) for run in every), 3)
            for name in sorted(timings)
        },
        "verdict": list(verdict),
        "shards": [run["shard"] | {name: run[name] for name in _OF_A_SHARD} for run in every],
    }


def _clean_up(directory: Path) -> None:
    """Remove what the shards kept; the run file last, by which the others are found."""
    sweep(directory)
    for shard in manifest.started(directory) - {WHOLE}:
        for name in (shard.journal, shard.flight, shard.lock, shard.run_file):
            (directory / name).unlink(missing_ok=True)
    (directory / ENTRANCE).unlink(missing_ok=True)
