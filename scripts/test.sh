#!/usr/bin/env bash
# Installs the package with its development tools into .venv, then runs lint, format, type check and tests.
# Options go to pytest: `bash scripts/test.sh -m "slow or not slow"` runs the slow tests too.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
prepare_environment "[dev]"
cd "$root"
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest -n 2 --dist worksteal "$@"
