#!/bin/bash
# A Slurm job array: eight tasks, a shard each, into one directory, and one run made of them.
#
#     job=$(sbatch --parsable configs/slurm-array.sh /data/images /data/explained)
#     sbatch --dependency=afterok:$job --wrap "camcli merge /data/explained"
#
# A task that fails or is preempted goes on where it ended when it is started again. With GPUs, add
# --gpus-per-task=1. Each task writes its messages as JSON lines into its own log.
#SBATCH --job-name=camcli
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --output=camcli-%A_%a.log
set -euo pipefail
exec camcli explain "$1" --output "$2" --workers "${SLURM_CPUS_PER_TASK:-4}" --log-format json
