#!/usr/bin/env bash
# Trains on several machines without a scheduler: call it on each of them with the same options of `capaboost train`.
#   NNODES=2 MASTER_ADDR=first.host bash scripts/train_multinode.sh --model vit_base_capaboost_lora ... --output SHARED
# Called again on all with the same options it goes on with the run (--resume). --data, --initial-checkpoint and --output
# must mean the same on all machines (a shared file system); the first process writes.
#   NNODES       number of machines
#   MASTER_ADDR  the machine where they meet, by a name or address that all can reach
#   MASTER_PORT  a free port there (default 29500)
#   NODE_RANK    number of this machine from 0, that of MASTER_ADDR; unset: they find out by themselves
#   RDZV_ID      without NODE_RANK: a name for the run, the same on all machines (default capaboost)
#   GPUS         processes on this machine, one GPU each (default: all its GPUs)
set -euo pipefail
if [ -z "${NNODES:-}" ] || [ -z "${MASTER_ADDR:-}" ]; then
    echo "train_multinode.sh: set NNODES=(number of machines) and MASTER_ADDR=(one of them), the same on all" >&2
    exit 2
fi
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment

MASTER_PORT="${MASTER_PORT:-29500}"
if [ -n "${NODE_RANK:-}" ]; then
    meeting=(--node-rank "$NODE_RANK" --master-addr "$MASTER_ADDR" --master-port "$MASTER_PORT")
else
    meeting=(--rdzv-backend c10d --rdzv-endpoint "$MASTER_ADDR:$MASTER_PORT" --rdzv-id "${RDZV_ID:-capaboost}")
fi
exec "$root/.venv/bin/torchrun" --nnodes "$NNODES" --nproc-per-node "${GPUS:-gpu}" "${meeting[@]}" \
    -m capaboost_vit.cli train "$@" --resume
