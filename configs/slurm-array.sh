#!/bin/bash
# A Slurm job array: eight tasks, a shard each, into one directory, and one run made of them.
#
#     job=$(sbatch --parsable configs/slurm-array.sh /data/images /data/explained)
#     sbatch --dependency=afterany:$job --wrap "camcli merge /data/explained"
#
# afterany, because a task in which a picture could not be read has failed for Slurm (exit status 3);
# merge refuses while a shard is not finished. Whatever ended a task, the same sbatch again does what
# is left. A task that is preempted is queued again, and so is one that has a minute left of the
# --time you give it. With GPUs, add --gpus-per-task=1. Each task writes its messages as JSON lines
# into its own log.
#SBATCH --job-name=camcli
#SBATCH --array=0-7
#SBATCH --cpus-per-task=4
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --output=camcli-%A_%a.log
#SBATCH --open-mode=append
set -u
camcli explain "$1" --output "$2" --workers "${SLURM_CPUS_PER_TASK:-4}" --log-format json &
camcli=$!
trap 'again=yes; kill "$camcli"' USR1
trap : TERM # scancel tells camcli too, and this shell has to wait for it
while [ -n "$(jobs -r)" ]; do wait "$camcli"; done
wait "$camcli"
status=$?
# A task that gets nowhere in its time is not queued for ever.
if [ "${again:-}" ] && [ "$status" = 143 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 100 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
fi
exit "$status"
