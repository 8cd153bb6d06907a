#!/usr/bin/env bash
# Trains one method on SQuAD v1.1 and v2, each with each seed, and prints the table:
#   METHOD=adapter bash scripts/run_squad.sh
# Called again it goes on where it was. Options behind the name go to every `capaboost train-text`, such as --amp true.
#   MODEL   hub id or folder (default microsoft/deberta-v3-base)
#   METHOD  lora or adapter: a file configs/nlu/squad_METHOD.yaml
#   TASKS   default "squad squad_v2"
#   SEEDS   default "42 43 44"
#   DATA    for one of the tasks alone: SQuAD's .json file, or a folder with train*.json and dev*.json (default hub)
#   OUTPUT  folder of the runs (default runs/squad)
#   GPUS    how many, one process each (default: all that CUDA_VISIBLE_DEVICES or nvidia-smi names; none: the CPU)
#   CUDA_VISIBLE_DEVICES  which
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/launch.sh"
prepare_environment "[nlu]"
set_launcher train-text

METHOD="${METHOD:-adapter}" OUTPUT="${OUTPUT:-runs/squad}"
for task in ${TASKS:-squad squad_v2}; do
    for seed in ${SEEDS:-42 43 44}; do
        "${launcher[@]}" --config "$root/configs/nlu/squad_$METHOD.yaml" \
            --model "${MODEL:-microsoft/deberta-v3-base}" --task "$task" --data "${DATA:-hub}" --seed "$seed" \
            --output "$OUTPUT/$METHOD/$task/seed$seed" "$@" --resume
    done
done
"$root/.venv/bin/capaboost" report "$OUTPUT" --output "$OUTPUT/report.md"
