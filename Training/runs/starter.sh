#!/usr/bin/env bash
# The starter model, from nothing to the folder that ships: WORK [CT MASK]...
# Synthetic patients, training, export, calibration on their validation split, results on their test split; the same on real
# CTs with planted findings, for each pair of CT and TotalSegmentator v2 mask; and the model card with all of it.
# Run it again after an interruption: every step goes on from where it was. The model is WORK/model.
#
# Sizes are variables, for example: PATIENTS=200 JOBS=4 DEVICE=cuda SET="batch_size=64 epochs=10" Training/runs/starter.sh work
set -euo pipefail
if [ $# -lt 1 ] || [ $(($# % 2)) -eq 0 ]; then
  echo "usage: starter.sh WORK [CT MASK]..." >&2
  exit 2
fi
work=$1
shift
recipe=${RECIPE:-starter}
read -ra synthesize <<<"${SYNTHESIZE:-}" # more options of synthesize, such as: --splits 0.8 0.1 --spacing 3 3 5
read -ra changes <<<"${SET:-}"           # fields of the recipe
patients=${PATIENTS:-4000} versions=${VERSIONS:-40} seed=${SEED:-11} jobs=${JOBS:-2} device=${DEVICE:-auto}
bootstrap=${BOOTSTRAP:-1000}

# exit code 8: done, but some cases could not be used; they are listed in the output and counted in the results
some_may_fail() { "$@" || [ $? -eq 8 ]; }
evaluate() {
  some_may_fail ctgvlm-train evaluate --model "$work/model" --protocol corpus --grounding --device "$device" --precision fp32 \
    --bootstrap "$bootstrap" --quiet "$@"
}

set_options=()
for change in "${changes[@]}"; do set_options+=(--set "$change"); done

ctgvlm-train synthesize "$work/corpus" --patients "$patients" --seed "$seed" --jobs "$jobs" "${synthesize[@]}"
ctgvlm-train recipes "$recipe" "${set_options[@]}" >"$work/recipe.json" # prepare reads the model's grid and organs from it
some_may_fail ctgvlm-train prepare "$work/corpus/manifest.csv" "$work/prepared" --model "$work/recipe.json" --jobs "$jobs" --quiet
ctgvlm-train train "$recipe" --data "$work/prepared" --run "$work/run" "${set_options[@]}"
[ -d "$work/model" ] || ctgvlm-train export "$work/run" "$work/model" --half
evaluate --manifest "$work/corpus/manifest.csv" --split test --validation-split validation --calibrate --output "$work/evaluation"

card=(ctgvlm-train card "$work/model" --evaluation "$work/evaluation" --corpus "$work/corpus")
if [ $# -gt 0 ]; then
  plant=()
  while [ $# -gt 0 ]; do
    plant+=(--plant "$1" --segmentation "$2")
    shift 2
  done
  ctgvlm-train synthesize "$work/planted" "${plant[@]}" --patients "$versions" --seed "$seed" --jobs "$jobs"
  evaluate --manifest "$work/planted/manifest.csv" --validation-scores "$work/evaluation/validation_scores.csv" \
    --validation-labels "$work/corpus/labels.csv" --output "$work/planted_evaluation"
  card+=(--planted "$work/planted_evaluation" --planted-corpus "$work/planted")
fi
"${card[@]}"
echo "$work/model: to ship it, copy it to CTGroundedVLM/CTGroundedVLMLib/data/models/starter"
