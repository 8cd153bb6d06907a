"""Studies of tiny trials."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from capaboost_vit.study import pool
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.trial import key_of, make_trial
from capaboost_vit.training.job import _FREE as FREE
from capaboost_vit.vision.config import TrainConfig

TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture
def study(tmp_path):
    return Study(tmp_path / "a study")


@pytest.fixture
def trial_of():
    """A trial of nothing that could be run, with other fields or options of the run."""

    def make(seed=0, *, fields=None, **options):
        config = TrainConfig(seed=seed, method={"name": "lora"}, model="vit_tiny_patch16_224", **options)
        values = {"suite": "mine", "task": "cats", "group": "", "classes": 2, "notes": ("a note",), "method": "lora"}
        values |= {"backbone": "vit_tiny_patch16_224", "stage": "final", "weights": None, **(fields or {})}
        return make_trial(config, **values)

    return make


@pytest.fixture
def aged(monkeypatch):
    """The same trial as an older release would have written it: without some options, and with the id of the others."""

    def make(trial, *names):
        old = dataclasses.replace(trial, config={k: v for k, v in trial.config.items() if k not in names})
        with monkeypatch.context() as release:
            release.setattr("capaboost_vit.training.job._FREE", {*FREE, *names})
            return dataclasses.replace(old, id=key_of(old.config, vars(old))[:12])

    return make


@pytest.fixture
def finish():
    """Writes the result of a trial, with these values; returns what it holds."""

    def write(study, trial, accuracy=50.0, **values):
        method = {name: value for name, value in trial.config["method"].items() if name != "name"}
        result = {
            **{"val_accuracy": accuracy, "test_accuracy": accuracy, "test_right": 3, "test_total": 4, "epochs": 1},
            **{"updates": 9, "train_seconds": 2.5, "images_per_second": 8.0, "memory_mb": 7.0},
            "parameters": {"trained": 5, "branches": 3, "total": 9},
            "method": [{"method": trial.config["method"]["name"], **method}],
            "config": trial.config,
            "machine": {"device": "cpu: another"},
            **values,
        }
        study.run_folder(trial).mkdir(parents=True, exist_ok=True)
        (study.run_folder(trial) / "result.json").write_text(json.dumps(result))
        return result

    return write


@pytest.fixture
def ready_workers(ready, monkeypatch):
    """Workers of this machine are ready interpreters that draw no pictures, and are looked at often."""

    def start(study, config, number, _gpus):
        log = pool._log(study, number)
        log.parent.mkdir(parents=True, exist_ok=True)
        return ready.start(["capaboost", *pool.work_command(study, config)], log=log, pictures=False)

    monkeypatch.setattr(pool, "_start", start)
    monkeypatch.setattr(pool, "_LOOK", 0.05)


@pytest.fixture
def written(tmp_path, pictures, base):
    """Writes a suite of two tasks and files of methods; gives what a study of them is configured with."""

    def write(files=None, **options):
        suite = {"name": "mine", "tasks": {name: {"data": str(pictures), "classes": 3} for name in ("one", "two")}}
        (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
        paths = []
        for name, values in (files or {"lora": {"method": {"name": "lora"}}}).items():
            path = tmp_path / f"{name}.yaml"
            path.write_text(yaml.safe_dump(values))
            paths.append(str(path))
        values = {
            "suite": str(tmp_path / "suite.yaml"),
            "methods": tuple(paths),
            "backbone": "vit_tiny_patch16_224",
            "initial_checkpoint": str(base),
            "output": str(tmp_path / "a study"),
            "set": {"model_kwargs": TINY_VIT, "img_size": 16, "epochs": 2, "batch_size": 16},
        }
        return {**values, **options}

    return write
