#!/usr/bin/env bash
# Trains under SLURM, on one machine or several; options go to `capaboost train`. From the project's folder:
#   OUTPUT=runs/mine sbatch --nodes 2 --gpus-per-node 4 scripts/train_slurm.sh --model vit_base_capaboost_lora ...
# Options of sbatch win over the lines below. Two minutes before the time is over, and when the job is preempted, the run
# saves a checkpoint and the job is queued again; it goes on where it was. Install on the login node first, where there
# is a network: `bash scripts/quickstart.sh`.
#   OUTPUT          folder of the run (--output), on a file system that all machines share
#   GPUS            processes on each machine, one GPU each (default: SLURM_GPUS_ON_NODE, else 1)
#   CAPABOOST_ROOT  the project's folder (default: where sbatch was called)
#SBATCH --job-name=capaboost
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=capaboost-%j.log
set -euo pipefail
# SLURM runs a copy of this file, so its place says nothing
environment="${CAPABOOST_ROOT:-${SLURM_SUBMIT_DIR:-}}/scripts/environment.sh"
if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${OUTPUT:-}" ] || [ ! -f "$environment" ]; then
    echo "train_slurm.sh: in the project's folder, type: OUTPUT=runs/mine sbatch scripts/train_slurm.sh --model ..." >&2
    exit 2
fi
source "$environment"
prepare_environment

host="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)"
port=$((20000 + SLURM_JOB_ID % 20000))
before="$(cat "$OUTPUT/status.json" 2>/dev/null || true)"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it over from sbatch
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100             # seconds that torchrun leaves the processes to save a checkpoint
# a machine that has stopped must not take down the one that is still saving
code=0
srun --kill-on-bad-exit=0 "$root/.venv/bin/torchrun" --nnodes "$SLURM_NNODES" \
    --nproc-per-node "${GPUS:-${SLURM_GPUS_ON_NODE:-1}}" \
    --rdzv-backend c10d --rdzv-endpoint "$host:$port" --rdzv-id "$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" \
    -m capaboost_vit.cli train --output "$OUTPUT" "$@" --resume || code=$?

# torchrun ends with 1 whatever the processes end with, so the run's own status counts, if it is this attempt's
after="$(cat "$OUTPUT/status.json" 2>/dev/null || true)"
if [ "$after" != "$before" ] && grep -q '"status": "preempted"' <<<"$after"; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
