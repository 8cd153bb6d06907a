#!/usr/bin/env bash
# The study of docs/study.md at 224 px on GPUs: tunes on val, runs, reports. Called again it goes on where it was.
#   DATA=data WEIGHTS=vit_tiny.safetensors bash scripts/study_gpu.sh [options of both `study tune` and `study run`]
# For a machine that reaches neither: what it needs of one task or several, in a folder of at most 60 MB, with
#   DATA=data WEIGHTS=vit_tiny.safetensors TASKS=eurosat bash scripts/study_gpu.sh pack FOLDER
# and there, with the project beside it,
#   TASKS=eurosat DATA=FOLDER WEIGHTS=FOLDER/model.safetensors bash scripts/study_gpu.sh
#   DATA      folder in which eurosat_vtab1k, cifar100_1k and caltech101_small lie
#   WEIGHTS   file of vit_tiny_patch16_224.augreg_in21k_ft_in1k
#   TASKS     names of configs/suites/small.yaml (default: all three)
#   OUTPUT    folder of the study (default runs/study_224)
#   SEEDS     default 0 1 2 3 4
#   WORKERS   trials at a time; they share the GPUs in turn (default 8)
#   RUN_WITH  an interpreter that has what the package needs (default: that of .venv, which is made)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
if [ ! -d "${DATA:-}" ] || [ ! -f "${WEIGHTS:-}" ]; then
    echo "study_gpu.sh: DATA is the folder of the data sets, WEIGHTS the file of weights; both have to be there" >&2
    exit 2
fi
TASKS="${TASKS:-eurosat cifar100 caltech101}"

if [ "${1:-}" = pack ]; then
    [ -n "${2:-}" ] || { echo "study_gpu.sh: name the folder: study_gpu.sh pack FOLDER" >&2; exit 2; }
    mkdir -p "$2"
    cp "$WEIGHTS" "$2/model.safetensors"
    for task in $TASKS; do
        folder="$(awk -v task="  $task:" '$0 == task {found = 1} found && $1 == "data:" {print $2; exit}' "$root/configs/suites/small.yaml")"
        [ -n "$folder" ] || { echo "study_gpu.sh: configs/suites/small.yaml has no task $task" >&2; exit 2; }
        cp -r "$DATA/$folder" "$2/"
    done
    bytes="$(find "$2" -type f -printf '%s\n' | awk '{sum += $1} END {print sum}')"
    echo "$2: $TASKS and the weights, $((bytes / 1000000)) MB"
    if [ "$bytes" -gt 60000000 ]; then
        echo "study_gpu.sh: over 60 MB: pack one task at a time, each into a folder of its own" >&2
        exit 1
    fi
    exit 0
fi

if [ -n "${RUN_WITH:-}" ]; then
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    capaboost=("$RUN_WITH" -m capaboost_vit.cli)
else
    prepare_environment
    capaboost=("$root/.venv/bin/capaboost")
fi
OUTPUT="${OUTPUT:-runs/study_224}"
study=(
    --suite "$root/configs/suites/small.yaml" --data "$DATA" --tasks $TASKS
    --backbone vit_tiny_patch16_224 --initial-checkpoint "$WEIGHTS"
    --methods "$root"/configs/study/*.yaml --set img_size=224 --set amp=true
    --output "$OUTPUT" --workers "${WORKERS:-8}"
)
"${capaboost[@]}" study tune "${study[@]}" --grid 'lr=[x0.5, x1, x2, x4, x8]' --tune-seeds 0 1 2 "$@"
"${capaboost[@]}" study run "${study[@]}" --tuned --seeds ${SEEDS:-0 1 2 3 4} "$@"
"${capaboost[@]}" study report "$OUTPUT"
