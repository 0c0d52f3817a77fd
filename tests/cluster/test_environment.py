"""Which shard Slurm, torchrun and Kubernetes say that a process is."""

from __future__ import annotations

import pytest

from camcli.cluster.environment import shard_here
from camcli.errors import UsageError
from camcli.shard import WHOLE, Shard


def slurm(number: int, count: int, **more: int) -> dict[str, str]:
    given = {"ID": number, "COUNT": count} | more
    return {f"SLURM_ARRAY_TASK_{name}": str(value) for name, value in given.items()}


TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}
POD = {"JOB_COMPLETION_INDEX": "4", "CAMCLI_SHARD_COUNT": "5"}


@pytest.mark.parametrize(
    ("environment", "shard", "told_by"),
    [
        ({}, WHOLE, ""),
        ({"RANK": "gold"}, WHOLE, ""),
        ({"CAMCLI_SHARD_COUNT": "5"}, WHOLE, ""),
        (slurm(2, 8), Shard(2, 8), "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"),
        (slurm(5, 8, MIN=1, MAX=8), Shard(4, 8),
         "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"),
        (slurm(30, 4, MIN=10, MAX=40, STEP=10), Shard(2, 4),
         "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"),
        (slurm(7, 1, MIN=7, MAX=7), WHOLE, ""),
        (TORCHRUN, Shard(3, 8), "RANK and WORLD_SIZE"),
        ({"RANK": "0", "WORLD_SIZE": "1"}, WHOLE, ""),
        (POD, Shard(4, 5), "JOB_COMPLETION_INDEX and CAMCLI_SHARD_COUNT"),
        (POD | {"CAMCLI_SHARD_COUNT": "1"}, WHOLE, ""),
        (TORCHRUN | {"JOB_COMPLETION_INDEX": "1"}, Shard(3, 8), "RANK and WORLD_SIZE"),
        (slurm(7, 1) | TORCHRUN, Shard(3, 8), "RANK and WORLD_SIZE"),
        (slurm(4, 8, MIN=1) | TORCHRUN, Shard(3, 8),
         "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT"),
    ],
)  # fmt: skip
def test_the_shard_and_who_said_so(environment: dict[str, str], shard: Shard, told_by: str) -> None:
    assert shard_here(environment) == (shard, told_by)


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"SLURM_ARRAY_TASK_ID": "3"}, "SLURM_ARRAY_TASK_COUNT is not set; "),
        (slurm(3, 3, MIN=1, MAX=7), "the task numbers of the Slurm array are not evenly spaced"),
        (slurm(15, 4, MIN=10, MAX=40, STEP=10), "the task numbers of the Slurm array are not"),
        (slurm(8, 8), "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT say shard 8 of 8, counted"),
        ({"RANK": "one", "WORLD_SIZE": "8"}, "RANK is 'one', which is no number; "),
        ({"RANK": "-1", "WORLD_SIZE": "8"}, "RANK is '-1', which is no number; "),
        (slurm(2, 8) | TORCHRUN, "SLURM_ARRAY_TASK_ID and SLURM_ARRAY_TASK_COUNT say shard 2/8 but "
                                 "RANK and WORLD_SIZE say shard 3/8; "),
        ({"JOB_COMPLETION_INDEX": "4"}, "JOB_COMPLETION_INDEX is 4, and nothing says of how many; "
                                        "set CAMCLI_SHARD_COUNT to the job's completions"),
    ],
)  # fmt: skip
def test_what_does_not_say_it_clearly_is_refused_and_the_flags_are_named(
    environment: dict[str, str], sentence: str
) -> None:
    with pytest.raises(UsageError) as error:
        shard_here(environment)
    assert str(error.value).startswith(sentence)
    assert "--shard none" in str(error.value)
