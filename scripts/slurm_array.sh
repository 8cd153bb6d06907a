#!/usr/bin/env bash
# The workers of a study as a SLURM array, one GPU each. From the project's folder, the study is written down first:
#   capaboost study run --workers 0 --output runs/study --methods configs/vtab1k/*.yaml ...
#   OUTPUT=runs/study sbatch --array 0-15 scripts/slurm_array.sh [options of `capaboost study work`]
# Options of sbatch win over the lines below. A worker whose time is over, or that is preempted, saves a checkpoint and is
# queued again; the trial of one that was killed is taken over by another. How far it is: capaboost study status OUTPUT
#   OUTPUT          folder of the study, on a file system that all machines share
#   CAPABOOST_ROOT  the project's folder (default: where sbatch was called)
#SBATCH --job-name=capaboost-study
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=8
#SBATCH --gpus=1
#SBATCH --time=04:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=capaboost-study-%A_%a.log
set -euo pipefail
# SLURM runs a copy of this file, so its place says nothing
environment="${CAPABOOST_ROOT:-${SLURM_SUBMIT_DIR:-}}/scripts/environment.sh"
if [ -z "${SLURM_JOB_ID:-}" ] || [ -z "${OUTPUT:-}" ] || [ ! -f "$environment" ]; then
    echo "slurm_array.sh: in the project's folder, type: OUTPUT=runs/study sbatch --array 0-15 scripts/slurm_array.sh" >&2
    exit 2
fi
source "$environment"
prepare_environment

export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # srun does not take it over from sbatch
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-$SRUN_CPUS_PER_TASK}"
code=0
srun "$root/.venv/bin/capaboost" study work --output "$OUTPUT" "$@" || code=$?
if [ "$code" -eq 143 ]; then # asked to stop, with a checkpoint
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
