#!/usr/bin/env bash
# Installs the package into .venv and runs the whole story on embedded images; options go to `capaboost quickstart`.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment
cd "$root"
.venv/bin/capaboost quickstart "$@"
printf 'To type these: cd %q && source .venv/bin/activate\n' "$root"
