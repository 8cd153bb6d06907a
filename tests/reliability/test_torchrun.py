"""Two processes under torchrun stop at the same update, and go on to the same bits."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
OPTIONS = {"method__dropout": 0.1, "grad_accum_steps": 2, "checkpoint_interval": 5}


def torchrun(lab, output, *flags, log, **options):
    """Starts two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0"]
    command += ["--standalone", "-m", "capaboost_vit.cli", *lab.arguments(output, **{**OPTIONS, **options}), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


@pytest.fixture(scope="module")
def whole(lab, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    process = torchrun(lab, folder / "run", log=folder / "log")
    assert process.wait(120) == 0, (folder / "log").read_text()
    return folder / "run"


@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGINT, 0)])
def test_a_signal_to_torchrun_stops_both_at_the_same_update(lab, whole, tmp_path, number, workers):
    output, log = tmp_path / "a run", tmp_path / "log"
    process = torchrun(lab, output, log=log, workers=workers)
    wait_for(output / "checkpoints" / "update-00000005.safetensors", process)
    process.send_signal(number)
    assert process.wait(60) != 0  # torchrun's own code and traceback
    said = log.read_text()
    status = lab.status(output)
    assert status["status"] == "preempted"
    line = next(line for line in said.splitlines() if "go on with: " in line)
    assert f"stopped after update {status['update']};" in line
    words = shlex.split(line.partition("go on with: ")[2])
    assert words[:5] == ["torchrun", "--nproc-per-node", "2", "-m", "capaboost_vit.cli"]
    process = torchrun(lab, output, "--resume", log=log, workers=0)
    assert process.wait(120) == 0, log.read_text()
    assert f"going on after update {status['update']} of 16" in log.read_text()
    lab.same(output, whole)


def test_a_kill_of_one_process_ends_both_and_the_run_can_go_on(lab, whole, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    process = torchrun(lab, output, log=log)
    wait_for(output / "checkpoints" / "update-00000005.safetensors", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(90) != 0
    process = torchrun(lab, output, "--resume", log=log)
    assert process.wait(120) == 0, log.read_text()
    lab.same(output, whole)


def test_one_process_does_not_go_on_with_a_run_of_two(lab, whole, tmp_path):
    output, log = tmp_path / "run", tmp_path / "log"
    process = torchrun(lab, output, log=log)
    wait_for(output / "checkpoints" / "update-00000005.safetensors", process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    for pid in Path("/proc").glob("[0-9]*"):  # torchrun's children have sessions of their own
        try:
            if str(output).encode() in (pid / "cmdline").read_bytes():
                os.kill(int(pid.name), signal.SIGKILL)
        except OSError:
            pass
    refused = lab.run(output, "--resume", code=2, **OPTIONS)
    assert "processes: 2 -> 1" in refused.said


def test_a_taken_folder_is_refused_at_once_by_both(lab, whole, tmp_path):
    start = time.monotonic()
    process = torchrun(lab, whole, log=tmp_path / "log")
    assert process.wait(60) != 0
    assert time.monotonic() - start < 30
    assert "add --resume to go on with it" in (tmp_path / "log").read_text()


def wait_for(path, process, seconds=90):
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, "it has ended"
        assert time.monotonic() < end
        time.sleep(0.01)
