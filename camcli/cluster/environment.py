"""Which shard a process is, as those say that start many of them: Slurm, torchrun, Kubernetes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from camcli.errors import UsageError
from camcli.shard import WHOLE, Shard

Environment = Mapping[str, str]
_TELL = "tell it with --shard I/N, or --shard none"


def shard_here(environment: Environment) -> tuple[Shard, str]:
    """The shard, and the variables that say so; a whole run and "" where none do.

    Raises UsageError where they do not say it clearly.
    """
    found = {names: shard for tell in (_slurm, _torchrun) for names, shard in tell(environment)}
    if not found:  # Kubernetes sets its variable beside torchrun's too, and says less
        found = dict(_kubernetes(environment))
    if len(set(found.values())) > 1:
        said = " but ".join(f"{names} say shard {shard}" for names, shard in found.items())
        raise UsageError(f"{said}; {_TELL}")
    return next(((shard, names) for names, shard in found.items()), (WHOLE, ""))


Found = list[tuple[str, Shard]]


def _slurm(environment: Environment) -> Found:
    """A job array; its task numbers start anywhere and may have gaps of one size."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return []
    number = _reader(environment, "SLURM_ARRAY_TASK_")
    count, step = number("COUNT", None), number("STEP", 1)
    first = number("MIN", 0)
    place, gap = divmod(number("ID", None) - first, max(step, 1))
    regular = number("MAX", first + (count - 1) * step) == first + (count - 1) * step
    if count > 1 and (gap or not regular):
        raise UsageError(
            "the task numbers of the Slurm array are not evenly spaced, so that SLURM_ARRAY_TASK_ID"
            f" does not tell which shard this is; {_TELL}"
        )
    return _named("SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT", place, count)


def _torchrun(environment: Environment) -> Found:
    if not {"RANK", "WORLD_SIZE"} <= environment.keys():
        return []
    number = _reader(environment, "")
    return _named("RANK and WORLD_SIZE", number("RANK", None), number("WORLD_SIZE", None))


def _kubernetes(environment: Environment) -> Found:
    """An indexed job, which does not say of how many pods: CAMCLI_SHARD_COUNT must."""
    if "JOB_COMPLETION_INDEX" not in environment:
        return []
    if "CAMCLI_SHARD_COUNT" not in environment:
        raise UsageError(
            f"JOB_COMPLETION_INDEX is {environment['JOB_COMPLETION_INDEX']}, and nothing says of "
            "how many; set CAMCLI_SHARD_COUNT to the job's completions, or --shard none"
        )
    number = _reader(environment, "")
    place, count = number("JOB_COMPLETION_INDEX", None), number("CAMCLI_SHARD_COUNT", None)
    return _named("JOB_COMPLETION_INDEX and CAMCLI_SHARD_COUNT", place, count)


def _reader(environment: Environment, prefix: str) -> Callable[[str, int | None], int]:
    def number(name: str, default: int | None) -> int:
        value = environment.get(prefix + name)
        if value is None and default is not None:
            return default
        if value is None or not (value.isascii() and value.isdigit() and len(value) < 10):
            shown = "is not set" if value is None else f"is '{value}', which is no number"
            raise UsageError(f"{prefix}{name} {shown}; {_TELL}")
        return int(value)

    return number


def _named(names: str, place: int, count: int) -> Found:
    if count <= 1:  # alone
        return []
    if not 0 <= place < count:
        raise UsageError(f"{names} say shard {place} of {count}, counted from 0; {_TELL}")
    return [(names, Shard(place, count))]
