"""Two processes stop at the same update, and go on to the same bits; what torchrun itself does in two of the tests."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

OPTIONS = {"method__dropout": 0.1, "grad_accum_steps": 2, "checkpoint_interval": 5}
TORCHRUN = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "0", "--standalone"]


def torchrun(lab, output, log):
    """Starts two processes under the real torchrun; waits until there is a checkpoint."""
    command = [sys.executable, *TORCHRUN, "-m", "capaboost_vit.cli", *lab.arguments(output, **OPTIONS, workers=2)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
    end = time.monotonic() + 90
    while not (output / "checkpoints" / "update-00000005.safetensors").exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.01)
    return process


def start_two(lab, output, *flags, **options):
    """Starts two processes as torchrun does, without its own."""
    return lab.start(output, *flags, ranks=2, **{**OPTIONS, **options})


def go_on(lab, output, reference):
    """Goes on with a run of two processes, to the bits of one that was not interrupted."""
    run = start_two(lab, output, "--resume")
    assert run.wait() == 0, run.said
    lab.same(output, reference)
    return run.said


@pytest.fixture(scope="module")
def reference(lab, tmp_path_factory):
    run = start_two(lab, tmp_path_factory.mktemp("two") / "run")
    assert run.wait() == 0, run.said
    return run.output


def assert_both_stopped(lab, output, said):
    """Asserts that both stopped after the same update, and that the line says what to type; returns the update."""
    status = lab.status(output)
    assert status["status"] == "preempted"
    line = next(line for line in said.splitlines() if "go on with: " in line)
    assert f"stopped after update {status['update']};" in line
    words = shlex.split(line.partition("go on with: ")[2])
    assert words[:5] == ["torchrun", "--nproc-per-node", "2", "-m", "capaboost_vit.cli"]
    return status["update"]


@pytest.mark.slow
def test_a_signal_to_torchrun_stops_both_at_the_same_update(lab, reference, tmp_path):
    output, log = tmp_path / "a run", tmp_path / "log"
    process = torchrun(lab, output, log)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0  # torchrun's own code and traceback
    update = assert_both_stopped(lab, output, log.read_text())
    assert f"going on after update {update} of 16" in go_on(lab, output, reference)


@pytest.mark.slow
def test_a_kill_of_one_process_ends_both_and_the_run_can_go_on(lab, reference, tmp_path):
    process = torchrun(lab, tmp_path / "run", tmp_path / "log")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert process.wait(90) != 0
    go_on(lab, tmp_path / "run", reference)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_both_stops_them_at_the_same_update(lab, reference, tmp_path, number):
    run = start_two(lab, tmp_path / "a run")
    assert run.until(lambda: 5 in run.updates), run.said
    run.signal(number)
    assert run.wait() == 128 + number, run.said
    update = assert_both_stopped(lab, run.output, run.said)
    assert f"going on after update {update} of 16" in go_on(lab, run.output, reference)


@pytest.mark.slow
def test_a_run_with_a_sharded_base_goes_on_to_the_same_bits(lab, tmp_path):
    whole, stopped = (start_two(lab, tmp_path / name, fsdp="true") for name in ("whole", "stopped"))
    assert stopped.until(lambda: 5 in stopped.updates), stopped.said
    stopped.signal(signal.SIGTERM)
    assert stopped.wait() == 128 + signal.SIGTERM, stopped.said
    assert whole.wait() == 0, whole.said
    again = start_two(lab, stopped.output, "--resume", fsdp="true")
    assert again.wait() == 0, again.said
    lab.same(again.output, whole.output)


def test_one_process_does_not_go_on_with_a_run_of_two(lab, reference, tmp_path):
    run = start_two(lab, tmp_path / "run")
    assert run.until(lambda: 5 in run.updates), run.said
    run.kill()
    refused = lab.run(run.output, "--resume", code=2, **OPTIONS)
    assert "processes: 2 -> 1" in refused.said


def test_a_taken_folder_is_refused_at_once_by_both(lab, reference):
    run = start_two(lab, reference)
    assert run.wait(30) == 2
    assert "add --resume to go on with it" in run.said


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_is_one_line_and_a_status_within_seconds(lab, tmp_path, lost):
    run = start_two(lab, tmp_path / "run", epochs=500, pictures=False)
    assert run.until(lambda: 5 in run.updates), run.said
    os.kill(run.process.pids[lost], signal.SIGKILL)
    assert run.wait(20) != 0
    check_failure(lab, run, lost, "has ended or was cut off")


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_frozen_process_is_one_line_and_a_status_after_the_timeout(lab, tmp_path, frozen):
    run = start_two(lab, tmp_path / "run", epochs=500, timeout=3, pictures=False)
    assert run.until(lambda: 5 in run.updates), run.said
    os.kill(run.process.pids[frozen], signal.SIGSTOP)
    assert run.until(lambda: "error" in run.said, 20), run.said
    check_failure(lab, run, frozen, "did not answer for 3 s (--timeout)")
    run.kill()  # of those that live


def check_failure(lab, run, rank, what):
    """The other one says in one line what happened to `rank`, and so does the status."""
    text = f"process {rank} {what}; go on from the last checkpoint with the same command and --resume"
    line = [line for line in run.said.splitlines() if "epoch" not in line][-1]
    assert line == f"capaboost train: error{' in process 1' if rank == 0 else ''}: {text}"
    assert "Traceback" not in run.said
    found = lab.status(run.output)
    assert (found["status"], found["error"]) == ("failed", text)


def test_a_process_that_never_comes_is_one_line(lab, tmp_path):
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    argv = ["capaboost", *lab.arguments(tmp_path / "run", timeout=2)]
    done = lab.ready.run(argv, env={**os.environ, **place})
    assert done.returncode == 2
    assert "capaboost train: error: process 1 did not answer for 2 s (--timeout)" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()
