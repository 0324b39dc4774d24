#!/usr/bin/env bash
# One GPU (or a CPU): RECIPE DATA RUN [--set FIELD=VALUE ...]
# Run it again after an interruption: it goes on from the last checkpoint.
set -euo pipefail
recipe=$1 data=$2 run=$3
shift 3
exec ctgvlm-train train "$recipe" --data "$data" --run "$run" "$@"
