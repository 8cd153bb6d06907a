#!/usr/bin/env bash
# Measures training on one GPU, in about ten minutes, with synthetic images and texts.
#   bash scripts/bench_gpu.sh [options that all measurements have, such as --batch-size 32]
#   PYTHON  an interpreter that has what the package needs (default python3); peft is compared where it is, the text
#           encoder measured where transformers is
#   OUTPUT  folder of the results, below the one where it is called (default runs/bench)
#   BUDGET  seconds after which no new case is started; what is left out is said (default 540)
#   DEVICE  cuda; cpu is for trying the script itself (default cuda)
# It ends with 1 if a goal of configs/bench/gpu.yaml is missed.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python3}"
DEVICE="${DEVICE:-cuda}"
BUDGET="${BUDGET:-540}"

if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "bench_gpu.sh: $PYTHON sees no GPU; DEVICE=cpu would run all of it on the CPU, for hours" >&2
    exit 2
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
code=0

measure() { # MEASUREMENT CONFIG SECONDS: for so long at most, and no longer than is left of the budget
    local kind="$1" config="$2" seconds="$3" result=0
    shift 3
    local left=$((BUDGET > SECONDS ? BUDGET - SECONDS : 0))
    "$PYTHON" -m capaboost_vit.cli bench "$kind" --config "$root/configs/bench/$config.yaml" --device "$DEVICE" \
        --budget "$((left < seconds ? left : seconds))" --output "${OUTPUT:-runs/bench}/$config.json" "$@" || result=$?
    [ "$result" -le 1 ] || exit "$result"
    code=$((code > result ? code : result))
}

measure speed gpu 330 "$@"
if "$PYTHON" -c 'import transformers' 2>/dev/null; then
    measure speed text_gpu 60 "$@"
else
    echo "bench_gpu.sh: $PYTHON has no transformers, so no text encoder is measured" >&2
fi
measure speed gpu_eager "$BUDGET" "$@"
measure scale scale_gpu "$BUDGET" "$@"
exit "$code"
