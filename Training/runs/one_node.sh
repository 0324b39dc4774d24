#!/usr/bin/env bash
# All GPUs of one machine: RECIPE DATA RUN [--set FIELD=VALUE ...]; GPUS=4 takes four of them.
# SIGTERM to torchrun reaches every process; it gives them 30 seconds to save (newer ones: --shutdown-timeout).
set -euo pipefail
recipe=$1 data=$2 run=$3
shift 3
gpus=${GPUS:-gpu} # "gpu": as many as there are
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
exec torchrun --standalone --nproc-per-node="$gpus" --module CTGroundedVLMTraining.cli \
  train "$recipe" --data "$data" --run-folder "$run" "$@"
