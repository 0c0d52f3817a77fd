#!/bin/bash
# GNU parallel on one machine: N processes, a shard each, and one run made of them.
#
#     configs/parallel.sh 8 /data/images /data/explained
set -euo pipefail
seq 0 $(($1 - 1)) | parallel --jobs "$1" camcli explain "$2" --output "$3" --shard "{}/$1" --quiet
camcli merge "$3"
