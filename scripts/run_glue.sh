#!/usr/bin/env bash
# Trains one method on GLUE, each task with each seed, and prints the table:
#   METHOD=lora MODEL=FacebookAI/roberta-base bash scripts/run_glue.sh
# Called again it goes on where it was. Options behind the name go to every `capaboost train-text`, such as --amp true.
#   MODEL   hub id or folder (default FacebookAI/roberta-base)
#   METHOD  lora, adapter, prefix, unipelt, unipelt_prompt, bitfit, head, full: a folder or file configs/nlu/glue_METHOD
#   TASKS   default "cola sst2 mrpc qqp stsb mnli qnli rte"
#   SEEDS   default "42 43 44"
#   DATA    folder with GLUE's folders of tsv files (default hub)
#   OUTPUT  folder of the runs (default runs/glue)
#   GPUS    how many, one process each (default: all that CUDA_VISIBLE_DEVICES or nvidia-smi names; none: the CPU)
#   CUDA_VISIBLE_DEVICES  which
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/launch.sh"
prepare_environment "[nlu]"
set_launcher train-text

METHOD="${METHOD:-lora}" OUTPUT="${OUTPUT:-runs/glue}"
for task in ${TASKS:-cola sst2 mrpc qqp stsb mnli qnli rte}; do
    config="$root/configs/nlu/glue_$METHOD/$task.yaml"
    [ -f "$config" ] || config="$root/configs/nlu/glue_$METHOD.yaml"
    for seed in ${SEEDS:-42 43 44}; do
        "${launcher[@]}" --config "$config" --model "${MODEL:-FacebookAI/roberta-base}" --task "$task" \
            --data "${DATA:-hub}" --seed "$seed" --output "$OUTPUT/$METHOD/$task/seed$seed" "$@" --resume
    done
done
"$root/.venv/bin/capaboost" report "$OUTPUT" --output "$OUTPUT/report.md"
