#!/usr/bin/env bash
# Does fVLM's objective, and its correction of false negatives, pay? From nothing to the table: WORK [option of `ablate` ...]
# Three arms (fvlm, fvlm-uncorrected, clip) x SEEDS on one synthetic corpus. Run it again after an interruption: it goes on.
#
#   PATIENTS=1500 STEPS=1500 SEEDS="1 2 3" SET="batch_size=64" JOBS=4 Training/runs/ablation.sh work --grounding
#   MANIFEST=corpus/manifest.csv PREPARED=prepared Training/runs/ablation.sh work     with what starter.sh made
set -euo pipefail
if [ $# -lt 1 ]; then
  echo "usage: ablation.sh WORK [option of ctgvlm-train ablate ...]" >&2
  exit 2
fi
work=$1
shift
recipe=${RECIPE:-starter} jobs=${JOBS:-2}
read -ra seeds <<<"${SEEDS:-1 2 3}"
read -ra changes <<<"${SET:-}" # fields of the recipe, for all arms
manifest=${MANIFEST:-$work/corpus/manifest.csv} prepared=${PREPARED:-$work/prepared}

set_options=(--set "steps=${STEPS:-1500}")
for change in "${changes[@]}"; do set_options+=(--set "$change"); done

mkdir -p "$work"
if [ -z "${MANIFEST:-}" ]; then
  ctgvlm-train synthesize "$work/corpus" --patients "${PATIENTS:-1500}" --seed "${SEED:-1}" --jobs "$jobs"
fi
if [ -z "${PREPARED:-}" ]; then
  ctgvlm-train recipes "$recipe" "${set_options[@]}" >"$work/recipe.json" # prepare reads the grid and organs from it
  # exit code 8: done, but some cases could not be used; they are listed in the output
  ctgvlm-train prepare "$manifest" "$prepared" --model "$work/recipe.json" --jobs "$jobs" || [ $? -eq 8 ]
fi
exec ctgvlm-train ablate "$recipe" --data "$prepared" --manifest "$manifest" --output "$work" --seeds "${seeds[@]}" \
  "${set_options[@]}" "$@"
