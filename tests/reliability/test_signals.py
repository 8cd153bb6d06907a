"""A signal ends a run within one update, with a checkpoint, a code and a line that says what to type."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 143, signal.SIGINT: 130}


def typed(run):
    """The command that the run says to go on with."""
    line = next(line for line in run.said.splitlines() if "go on with: " in line)
    words = shlex.split(line.partition("go on with: ")[2])
    assert words[0] == "capaboost"
    return words[1:]


def status(folder):
    return json.loads((folder / "status.json").read_text())


def go_on(lab, run):
    """Types it."""
    done = lab.start_argv(typed(run), run.output)
    assert done.wait() == 0, done.said
    assert f"going on after update {run.stopped_at} of" in done.said


def assert_stopped(run, code):
    """It stopped as it should; notes at which update."""
    assert run.wait() == code, run.said
    found = status(run.output)
    assert found["status"] == "preempted"
    run.stopped_at = found["update"]
    assert run.updates[-1] == found["update"]
    assert "Traceback" not in run.said
    assert "worker" not in run.said
    assert len([line for line in run.said.splitlines() if "capaboost train: stop" in line]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("number", "workers"), [(signal.SIGTERM, 2), (signal.SIGUSR1, 0), (signal.SIGINT, 2)])
def test_a_signal_to_the_group_stops_within_an_update_and_the_typed_command_goes_on(lab, tmp_path, number, workers):
    options = {"method__dropout": 0.1}
    output = tmp_path / "my runs" / "it's one"  # the typed command has to be quoted
    run = lab.start(output, workers=workers, **options)
    assert run.until(lambda: 3 in run.updates)
    run.signal(number, group=True)
    sent = time.monotonic()
    assert_stopped(run, CODES[number])
    assert time.monotonic() - sent < 10
    go_on(lab, run)
    lab.same(output, lab.reference(**options))


def test_the_checkpoint_is_that_of_the_update_at_hand(lab, tmp_path):
    run = lab.start(tmp_path / "run", checkpoint_interval=1, pause=0.2)  # 0.6 s a save: the signal comes in one
    assert run.until(lambda: 2 in run.updates)
    run.signal(signal.SIGTERM)
    before = run.updates[-1]
    assert_stopped(run, 143)
    assert run.stopped_at <= before + 1


@pytest.mark.slow
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_more_signals_in_the_middle_of_the_save_change_nothing(lab, tmp_path, second):
    run = lab.start(tmp_path / "run", checkpoint_interval=100, pause=0.3, method__dropout=0.1)
    assert run.until(lambda: 0 in run.updates)
    assert run.until(lambda: status_is(run.output, "running"))
    run.signal(signal.SIGTERM)
    assert run.until(lambda: bool(list((run.output / "checkpoints").glob(".*.partial"))))
    for _ in range(4):
        run.signal(second, group=True)
        time.sleep(0.2)
    assert_stopped(run, 143)
    lab.run(run.output, "--resume", checkpoint_interval=100, method__dropout=0.1)
    reference = lab.reference(method__dropout=0.1)
    assert (run.output / "adapter.safetensors").read_bytes() == (reference / "adapter.safetensors").read_bytes()


def status_is(folder, word):
    return (folder / "status.json").exists() and status(folder)["status"] == word


@pytest.mark.slow
def test_a_signal_in_the_evaluation_of_the_last_epoch_or_of_the_test_split(lab, tmp_path):
    options = {"method__dropout": 0.1}
    slow = {**options, "validation_batch_size": 1}  # some 200 steps an evaluation
    reference = lab.reference(**slow)
    for name, begun in {
        "val": lambda run: 15 in run.updates,
        "test": lambda run: (run.output / "adapter.safetensors").exists(),
    }.items():
        run = lab.start(tmp_path / name, **slow)
        assert run.until(lambda run=run, begun=begun: begun(run))
        time.sleep(0.05)
        run.signal(signal.SIGTERM, group=True)
        assert_stopped(run, 143)
        assert not (run.output / "result.json").exists()
        go_on(lab, run)
        lab.same(run.output, reference)


def test_a_signal_before_training_begins_is_not_lost(lab, tmp_path):
    run = lab.start(tmp_path / "run", epochs=50)
    assert run.until(lambda: (run.output / ".lock").exists())
    run.signal(signal.SIGTERM)
    assert_stopped(run, 143)
    assert run.stopped_at <= 1


@pytest.mark.slow
@pytest.mark.parametrize("born", [1, 2, 3, 4])  # 1 and 2 train, 3 and 4 evaluate
def test_a_signal_to_the_group_while_loader_processes_are_born(lab, tmp_path, born):
    for attempt in range(2):
        run = lab.start(tmp_path / str(attempt), workers=2, validation_batch_size=8)
        assert run.until(lambda run=run: len(children(run)) >= born)
        time.sleep(0.005 * attempt)
        run.signal(signal.SIGTERM, group=True)
        assert_stopped(run, 143)


def children(run):
    path = Path(f"/proc/{run.pid}/task/{run.pid}/children")
    return path.read_text().split() if path.exists() else []


@pytest.mark.slow
def test_the_installed_command_stops_in_the_same_way(lab, tmp_path):
    command = [sys.executable, "-m", "capaboost_vit.cli", *lab.arguments(tmp_path / "run", epochs=200, workers=2)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True) as run:
        for _ in range(2000):
            if (tmp_path / "run" / "checkpoints" / "update-00000006.safetensors").exists():
                break
            time.sleep(0.02)
        os.killpg(run.pid, signal.SIGINT)
        assert run.wait(20) == 130
        said = run.stderr.read()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("capaboost train: stopped ")
