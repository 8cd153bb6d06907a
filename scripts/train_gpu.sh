#!/usr/bin/env bash
# Trains on the GPUs of this machine; options go to `capaboost train`:
#   bash scripts/train_gpu.sh --model vit_base_capaboost_lora --pretrained --data FOLDER --output runs/mine
# Called again with the same options it goes on with the run (--resume). Without a GPU it trains on the CPU.
#   GPUS                  how many, one process each (default: all that CUDA_VISIBLE_DEVICES or nvidia-smi names)
#   CUDA_VISIBLE_DEVICES  which, as ever
# --batch-size is that of all processes together. With several GPUs, Ctrl-C or SIGTERM end with torchrun's traceback and
# its exit code 1; the checkpoint is there all the same, and status.json in the run's folder says "preempted".
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
source "$root/scripts/launch.sh"
prepare_environment
set_launcher train
exec "${launcher[@]}" "$@" --resume
