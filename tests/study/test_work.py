"""Workers finish every trial once, whatever happens to them."""

from __future__ import annotations

import collections
import os
import signal
import time

import pytest
from safetensors.numpy import load_file

from capaboost_vit.study import work as work_file
from capaboost_vit.study.config import StudyRunConfig, WorkConfig
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.plan import final_trials
from capaboost_vit.study.work import work
from capaboost_vit.training.signals import Interrupted


@pytest.fixture
def planned(study, trial_of):
    """A study of some trials that nobody has to run for real."""

    def make(number):
        return study.add([trial_of(seed) for seed in range(number)])[0]

    return make


@pytest.fixture
def training(monkeypatch, study, finish):
    """Replaces training: notes the seeds, and does what `how` says by seed (raise it, or finish)."""
    begun, how = [], {}

    def train(config):
        begun.append(config.seed)
        action = how.get(config.seed)
        if isinstance(action, list):
            action = action.pop(0) if action else None
        if action is not None:
            raise action
        folder = os.path.join(config.output, "checkpoints")
        os.makedirs(folder)
        with open(os.path.join(config.output, "adapter.safetensors"), "w"):
            finish(study, study.trials()[os.path.basename(config.output)])

    monkeypatch.setattr(work_file, "train", train)
    monkeypatch.setattr(work_file.time, "sleep", lambda seconds: None)
    return begun, how


def test_a_worker_finishes_all_and_a_second_one_finds_nothing_to_do(study, planned, training, capsys):
    trials = planned(3)
    assert work(study, WorkConfig()) == 3
    assert work(study, WorkConfig()) == 0
    assert training[0] == [0, 1, 2]
    assert [line.partition(":")[0] for line in capsys.readouterr().out.splitlines()] == ["begins", "finished"] * 3
    for trial in trials:
        left = {path.name for path in study.run_folder(trial).iterdir()}
        assert left == {"result.json", "adapter.safetensors"}  # no checkpoints


def test_the_files_of_candidates_and_of_models_that_nobody_wants_go(study, trial_of, training):
    final, candidate = trial_of(0), trial_of(1, fields={"stage": "candidate"})
    study.add([candidate])
    work(study, WorkConfig())
    study.add([final])
    work(study, WorkConfig(keep_models=False))
    for trial in (final, candidate):
        assert [path.name for path in study.run_folder(trial).iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    "error",
    [ValueError("no such model"), FloatingPointError("loss is nan"), FileNotFoundError("no data"), TypeError("x")],
)
def test_a_mistake_is_given_up_at_once_and_the_others_go_on(study, planned, training, error):
    trials = planned(3)
    training[1][1] = error
    assert work(study, WorkConfig()) == 2
    assert training[0] == [0, 1, 2]
    assert study.failure(trials[1]) == {"error": f"{type(error).__name__}: {error}", "attempts": 1}


@pytest.mark.parametrize("error", [OSError("disk full"), RuntimeError("CUDA out of memory")])
def test_what_may_pass_is_tried_again_and_given_up_at_last(study, planned, training, error):
    trials = planned(2)
    training[1].update({0: [error], 1: [error] * 9})
    assert work(study, WorkConfig(attempts=3)) == 1
    assert collections.Counter(training[0]) == {0: 2, 1: 3}
    assert study.finished(trials[0])
    assert study.failure(trials[1])["attempts"] == 3


def test_what_was_given_up_and_forgiven_is_begun_again_as_often(study, planned, training):
    (trial,) = planned(1)
    training[1][0] = [RuntimeError("no")] * 5
    work(study, WorkConfig(attempts=2))
    study.forgive(trial)
    work(study, WorkConfig(attempts=2))
    assert training[0] == [0] * 4
    study.forgive(trial)
    assert work(study, WorkConfig(attempts=2)) == 1


def test_a_trial_that_is_interrupted_is_given_back_and_does_not_count_as_tried(study, planned, training):
    (trial,) = planned(1)
    training[1][0] = [Interrupted(signal.SIGTERM, "stopped")] * 3
    for _ in range(3):
        with pytest.raises(Interrupted):
            work(study, WorkConfig(attempts=1))
    assert study.failure(trial) is None
    assert work(study, WorkConfig(attempts=1)) == 1


def test_a_folder_in_use_is_left_to_whom_it_belongs_without_counting(study, planned, training):
    (trial,) = planned(1)
    training[1][0] = [BlockingIOError("in use")] * 4
    assert work(study, WorkConfig(attempts=1)) == 1
    assert study.failure(trial) is None


def test_a_damaged_result_is_set_aside_and_its_trial_run_again(study, planned, training, capsys):
    (trial,) = planned(1)
    study.run_folder(trial).mkdir(parents=True)
    (study.run_folder(trial) / "result.json").write_text('{"test_accuracy": 5')
    assert work(study, WorkConfig()) == 1
    assert study.finished(trial)
    assert f"damaged: {study.run_folder(trial)}/result.json is damaged (no JSON: " in capsys.readouterr().out
    (aside,) = (study.path / "trials").glob(f"{trial.id}.damaged.*/result.json")
    assert aside.read_text() == '{"test_accuracy": 5'


def test_trials_in_other_hands_are_waited_for_or_not(study, planned, training, monkeypatch):
    trials = planned(2)
    other = work_file.Leases(study.leases, seconds=60)
    held = other.claim(trials[0].id)
    assert work(study, WorkConfig(), wait=False) == 1
    assert training[0] == [1]

    def give_back(seconds):
        with held:
            pass

    monkeypatch.setattr(work_file.time, "sleep", give_back)
    assert work(study, WorkConfig()) == 1
    assert training[0] == [1, 0]


def test_a_trial_whose_workers_all_die_is_given_up(study, planned, training, monkeypatch, capsys):
    (trial,) = planned(1)
    for _ in range(3):  # workers that died: their leases were never given back
        monkeypatch.setattr("capaboost_vit.study.lease._dead_here", lambda content: True)
        assert work_file.Leases(study.leases, seconds=60).claim(trial.id)
    assert work(study, WorkConfig(attempts=3)) == 0
    assert training[0] == []
    assert "given up: lora on cats, seed 0: its workers died, or it failed, 3 times" in capsys.readouterr().out


_WORKER = """
import json, os, random, sys, time
from capaboost_vit.study import work as work_file
from capaboost_vit.study.manifest import Study
from capaboost_vit.training.job import as_dict

folder, log = sys.argv[1:]

def train(config):
    with open(log, "a") as file:
        file.write(f"{config.seed}\\n")
    os.makedirs(config.output, exist_ok=True)
    time.sleep(random.random() / 100)
    result = {"config": as_dict(config), "method": [{"method": "head"}], "parameters": {"trained": 1}}
    with open(os.path.join(config.output, "result.json"), "x") as file:  # fails if there is one
        json.dump({**result, "train_seconds": 1.0, "test_accuracy": 1.0}, file)

work_file.train = train
work_file.work(Study(folder), work_file.WorkConfig())
"""


@pytest.mark.slow
def test_eight_workers_finish_a_hundred_trials_once_each(ready, study, planned, tmp_path):
    planned(100)
    workers = [ready.start(["python", "-c", _WORKER, study.path, tmp_path / "begun"]) for _ in range(8)]
    assert [worker.wait(300) for worker in workers] == [0] * 8, [worker.stderr for worker in workers]
    assert sorted(map(int, (tmp_path / "begun").read_text().split())) == list(range(100))
    assert study.open_trials() == []


# real training


def wait_for(condition, seconds=90):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_trial_whose_result_was_damaged_is_trained_again_to_the_same_bits(written):
    config = StudyRunConfig(**{**written(), "seeds": (0,), "tasks": ("one",)})
    study = Study(config.output)
    (trial,), _ = study.add(final_trials(config))
    adapters = []
    for _ in range(2):
        assert work(study, WorkConfig()) == 1
        adapters.append((study.run_folder(trial) / "adapter.safetensors").read_bytes())
        result = study.run_folder(trial) / "result.json"
        result.write_text(result.read_text()[:100])
    assert adapters[0] == adapters[1]


@pytest.mark.slow
def test_a_killed_workers_trial_goes_on_in_another_one_to_the_same_bits(ready, written, tmp_path):
    values = written(
        set={
            "model_kwargs": {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2},
            "img_size": 16,
            "epochs": 30,
            "batch_size": 16,
        }
    )
    finished = []
    for name in ("killed", "whole"):
        config = StudyRunConfig(**{**values, "output": str(tmp_path / name), "seeds": (0,), "tasks": ("one",)})
        study = Study(config.output)
        (trial,), _ = study.add(final_trials(config))
        command = ["capaboost", "study", "work", "--output", study.path]
        if name == "killed":
            checkpoints = study.run_folder(trial) / "checkpoints"
            first = ready.start(command, pictures=False)
            wait_for(lambda folder=checkpoints: len(list(folder.glob("[!.]*"))) > 1)
            first.kill()
            assert first.wait() == -signal.SIGKILL
            assert not study.finished(trial)
        ready.run(command, check=True, pictures=False)
        assert study.finished(trial)
        finished.append(study.run_folder(trial))
    killed, whole = (load_file(folder / "adapter.safetensors") for folder in finished)
    assert killed.keys() == whole.keys()
    assert all((killed[name] == whole[name]).all() for name in whole)
    assert (finished[0] / "summary.csv").read_text() == (finished[1] / "summary.csv").read_text()
