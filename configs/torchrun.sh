#!/bin/bash
# torchrun: a process for each GPU, of one machine or of several, a shard each, into one directory.
#
#     configs/torchrun.sh /data/images /data/explained --standalone --nproc-per-node 8
#     camcli merge /data/explained
#
# torchrun ends all processes once one has failed. A picture that could not be read (exit status 3)
# is no reason to: it is in the journal, and merge counts it. After anything else all processes end
# their batches and go on where they were, up to three times.
set -eu
images=$1 output=$2
shift 2
# The shell waits for camcli, which hears of a SIGTERM itself.
exec torchrun --max-restarts 3 "$@" --no-python \
  bash -c 'trap : TERM; camcli explain "$0" --output "$1" || [ $? = 3 ]' "$images" "$output"
