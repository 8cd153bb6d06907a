# Sourced by the scripts that train, after environment.sh: one process for each GPU.
#   set_launcher COMMAND  puts the words that start `capaboost COMMAND` into the array `launcher`
#   GPUS                  how many (default: all that CUDA_VISIBLE_DEVICES or nvidia-smi names)

list_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+given}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L | grep '^GPU'
    fi
}

set_launcher() {
    GPUS="${GPUS:-$(list_gpus | grep -c . || true)}"
    if [ "$GPUS" -le 1 ]; then
        launcher=("$root/.venv/bin/capaboost" "$1")
    else
        launcher=("$root/.venv/bin/torchrun" --standalone --nproc-per-node "$GPUS" -m capaboost_vit.cli "$1")
    fi
}
