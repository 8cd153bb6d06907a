"""The tutorial's commands run as they are printed, from real pictures and real weights to a prediction."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / "docs" / "tutorial.md").read_text(), re.M | re.S)
CONSOLE = [line for kind, block in BLOCKS if kind == "console" for line in block.splitlines()]
BLOCKING = "tensorboard"
ELSEWHERE = ("scripts/train_gpu.sh", "scripts/train_multinode.sh", "scripts/train_slurm.sh")  # tests/test_scripts.py


def options(command):
    """What a line of the console hands to `capaboost train`."""
    words = shlex.split(command)
    return words[next(i for i, word in enumerate(words) if word in ELSEWHERE) + 1 :]


def test_every_block_is_run_is_output_or_waits_for_something():
    assert {kind for kind, _ in BLOCKS} == {"bash", "python", "text", "console"}
    assert sum(kind == "bash" for kind, _ in BLOCKS) >= 7
    assert all(line.startswith("$ ") for line in CONSOLE)
    waiting = [line for line in CONSOLE if line.split()[1] == BLOCKING]
    scripts = [word for line in CONSOLE for word in line.split() if word in ELSEWHERE]
    assert len(waiting) == 1
    assert scripts == list(ELSEWHERE)
    assert len(CONSOLE) == len(waiting) + len(scripts)


@pytest.mark.parametrize("script", ELSEWHERE)
def test_the_options_of_commands_that_need_more_than_a_cpu_are_understood(script):
    from capaboost_vit.cli import _parser

    (command,) = (line.removeprefix("$ ") for line in CONSOLE if script in line)
    assert (ROOT / script).is_file()
    assert _parser().parse_args(["train", *options(command)]).train.pretrained is True


@pytest.fixture(scope="module")
def workplace(ready, real_data, vit_tiny_weights, tmp_path_factory):
    """A folder with 30 pictures of each class of EuroSAT, and what the hub would have left in the cache."""
    folder = tmp_path_factory.mktemp("first hour")
    eurosat = real_data / "eurosat_vtab1k"
    with zipfile.ZipFile(eurosat / "images.zip") as file:
        for name in (eurosat / "classes.txt").read_text().split():
            members = sorted(m for m in file.namelist() if m.startswith(f"images/{name}/") and m.endswith(".jpg"))
            (folder / "pictures" / name).mkdir(parents=True)
            for member in members[:30]:
                (folder / "pictures" / name / Path(member).name).write_bytes(file.read(member))
    revision = "0" * 40
    cache = ready.hub / "hub" / "models--timm--vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "main").write_text(revision)
    (cache / "snapshots" / revision).mkdir(parents=True)
    (cache / "snapshots" / revision / "model.safetensors").symlink_to(vit_tiny_weights)
    return folder


def interrupted(ready, command, workplace, surroundings):
    """What a run says that is interrupted as soon as it trains, not after so many seconds, which may be too few."""
    process = ready.start(command, cwd=workplace, env=surroundings)
    checkpoints = workplace / command[command.index("--output") + 1] / "checkpoints"
    while not (checkpoints.is_dir() and any(checkpoints.iterdir())):
        assert process.poll() is None, process.stderr
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, process.stderr
    return process.stdout + process.stderr


@pytest.mark.slow
@pytest.mark.realdata
@pytest.mark.timeout(900)
def test_every_command_runs_as_it_is_printed(ready, workplace):
    surroundings = {
        **{name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "HF_HUB_CACHE")},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(ready.hub),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONUTF8": "1",
    }
    outputs = []
    for kind, block in BLOCKS:
        if kind == "python":
            done = ready.run(["python", "-c", block], cwd=workplace, env=surroundings, package=False, check=True)
            outputs.append(done.stdout)
        elif kind == "bash" and all(re.fullmatch(r"capaboost [\w ./-]+", line) for line in block.splitlines()):
            for line in block.splitlines():
                done = ready.run(shlex.split(line), cwd=workplace, env=surroundings, timeout=600, check=True)
                outputs.append(done.stdout + done.stderr)
        elif kind == "bash" and block.startswith("timeout "):
            words = shlex.split(block.replace("\\\n", " "))
            command = words[words.index("capaboost") : words.index("||")]
            outputs.append(interrupted(ready, command, workplace, surroundings))
        elif kind == "bash":
            command = ["bash", "-euo", "pipefail", "-c", block]
            done = subprocess.run(command, cwd=workplace, env=surroundings, capture_output=True, text=True, timeout=600)
            assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
            outputs.append(done.stdout + done.stderr)
    everything = "\n".join(outputs)
    assert (workplace / "contact_sheet.png").stat().st_size > 50_000
    assert (
        next(block for kind, block in BLOCKS if kind == "text") in outputs[0]
    )  # no arithmetic in it: the same anywhere
    results = [json.loads((workplace / "runs" / name / "result.json").read_text()) for name in ("first", "second")]
    for result in results:
        assert result["test_accuracy"] > 40  # 10 would be chance
        assert result["epochs"] == 20
    assert json.loads((workplace / "runs" / "second" / "status.json").read_text())["status"] == "finished"
    assert f"accuracy {results[0]['test_accuracy']:.2f} % ({results[0]['test_right']} of 30)" in everything
    with open(workplace / "predictions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 30 * 5
    first = next(row for row in rows if row["image"] == "pictures/River/River_1002.jpg")
    assert outputs[-1].split()[0] == first["class"]
    assert float(outputs[-1].split()[1]) == pytest.approx(100 * float(first["probability"]), abs=0.1)
