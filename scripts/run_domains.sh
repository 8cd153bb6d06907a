#!/usr/bin/env bash
# Trains one method on the eight data sets of "Don't Stop Pretraining", each with each seed, and prints the table:
#   DATA=FOLDER METHOD=unipelt_prompt bash scripts/run_domains.sh
# Called again it goes on where it was. Options behind the name go to every `capaboost train-text`, such as
# --tapt-epochs 10, or --dapt-data FILE.
#   MODEL   hub id or folder (default FacebookAI/roberta-base)
#   METHOD  unipelt, unipelt_prompt, ...: a file configs/nlu/domains_METHOD.yaml, or configs/nlu/glue_METHOD.yaml
#   TASKS   default all eight; most of them have to be fetched by hand
#   SEEDS   default "42 43 44"
#   DATA    folder with the data sets' folders (chemprot, rct-20k, citation_intent, ...)
#   OUTPUT  folder of the runs (default runs/domains)
#   GPUS    how many, one process each (default: all that CUDA_VISIBLE_DEVICES or nvidia-smi names; none: the CPU)
#   CUDA_VISIBLE_DEVICES  which
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/launch.sh"
prepare_environment "[nlu]"
set_launcher train-text

METHOD="${METHOD:-unipelt_prompt}" OUTPUT="${OUTPUT:-runs/domains}"
config="$root/configs/nlu/domains_$METHOD.yaml"
[ -f "$config" ] || config="$root/configs/nlu/glue_$METHOD.yaml"
for task in ${TASKS:-chemprot rct acl-arc scierc hyperpartisan agnews helpfulness imdb}; do
    for seed in ${SEEDS:-42 43 44}; do
        "${launcher[@]}" --config "$config" --model "${MODEL:-FacebookAI/roberta-base}" --task "$task" \
            --data "${DATA:?name the folder that holds the data sets}" --seed "$seed" \
            --output "$OUTPUT/$METHOD/$task/seed$seed" "$@" --resume
    done
done
"$root/.venv/bin/capaboost" report "$OUTPUT" --output "$OUTPUT/report.md"
