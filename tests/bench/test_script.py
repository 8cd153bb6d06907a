"""scripts/bench_gpu.sh: what it measures, for how long, and its exit code, by a python that notes what it is asked."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STUB = """#!/bin/bash
case "$1 $2" in
"-c import sys, torch"*) exit ${NO_GPU:-0} ;;
"-c import transformers") exit ${NO_TRANSFORMERS:-0} ;;
*) echo "$@"; exit ${CODE:-0} ;;
esac
"""


@pytest.fixture
def script(tmp_path):
    python = tmp_path / "python"
    python.write_text(STUB)
    python.chmod(0o755)

    def run(*arguments, **environment):
        return subprocess.run(
            ["bash", str(ROOT / "scripts" / "bench_gpu.sh"), *arguments],
            env={**os.environ, "PYTHON": str(python), **environment},
            capture_output=True,
            text=True,
            timeout=60,
            cwd=tmp_path,
        )

    return run


@pytest.mark.parametrize("missing", ["0", "1"])
def test_it_measures_texts_where_transformers_is(missing, script):
    done = script("--batch-size", "32", NO_TRANSFORMERS=missing, OUTPUT="my results")
    assert done.returncode == 0, done.stderr
    calls = [line.split(" --config ") for line in done.stdout.splitlines()]
    assert [start.split()[-1] for start, _ in calls] == ["speed"] * (2 if missing == "1" else 3) + ["scale"]
    files = ["gpu", *(["text_gpu"] if missing == "0" else []), "gpu_eager", "scale_gpu"]
    for (_, options), name in zip(calls, files, strict=True):
        assert options.startswith(f"{ROOT}/configs/bench/{name}.yaml --device cuda --budget ")
        assert options.endswith(f" --output my results/{name}.json --batch-size 32")
    assert ("no transformers" in done.stderr) == (missing == "1")


def test_no_measurement_gets_more_time_than_is_left(script):
    budgets = [int(line.split("--budget ")[1].split()[0]) for line in script(BUDGET="100").stdout.splitlines()]
    assert 90 <= budgets[0] <= 100
    assert budgets[1] == 60
    assert 90 <= budgets[2] <= 100
    assert " --budget 0 " in script(BUDGET="0").stdout


def test_a_missed_goal_is_its_exit_code_and_a_mistake_ends_it(script):
    missed, mistake = script(CODE="1"), script(CODE="2")
    assert (missed.returncode, len(missed.stdout.splitlines())) == (1, 4)
    assert (mistake.returncode, len(mistake.stdout.splitlines())) == (2, 1)


def test_without_a_gpu_it_says_so_and_stops(script, tmp_path):
    done = script(NO_GPU="1")
    assert done.returncode == 2
    assert "sees no GPU; DEVICE=cpu would run all of it on the CPU" in done.stderr
    assert done.stdout == ""
    assert script(NO_GPU="1", DEVICE="cpu").returncode == 0
