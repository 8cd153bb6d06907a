#!/usr/bin/env bash
# Measures training on one GPU, in one call of at most ten minutes, with synthetic images; nothing is installed.
# It needs a python with torch, timm, numpy, safetensors and, for the comparison, peft; the text encoder is measured where
# transformers is. Options go to `python -m capaboost_vit.bench`: bash scripts/bench_gpu.sh --set batch_size=32
#   PYTHON  the interpreter (default python3)
#   OUTPUT  folder of the results, below the one where it is called (default runs/bench)
#   BUDGET  seconds after which no new case is started; what is left out is said (default 540)
#   DEVICE  cuda; cpu is for trying the script itself (default cuda)
# The pictures are drawn where matplotlib is; elsewhere later, with `capaboost bench draw RESULT.json`.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="${PYTHON:-python3}"
DEVICE="${DEVICE:-cuda}"

if [ "$DEVICE" = cuda ] && ! "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "bench_gpu.sh: $PYTHON sees no GPU; DEVICE=cpu would run all of it on the CPU, for hours" >&2
    exit 2
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
configs="$root/configs/bench"
files=("$configs/gpu.yaml" "$configs/text_gpu.yaml" "$configs/gpu_eager.yaml")
if ! "$PYTHON" -c 'import transformers' 2>/dev/null; then
    echo "bench_gpu.sh: $PYTHON has no transformers, so no text encoder is measured" >&2
    files=("$configs/gpu.yaml" "$configs/gpu_eager.yaml")
fi
exec "$PYTHON" -m capaboost_vit.bench \
    speed "${files[@]}" scale "$configs/scale_gpu.yaml" \
    --budget "${BUDGET:-540}" --output "${OUTPUT:-runs/bench}" --set device="$DEVICE" "$@"
