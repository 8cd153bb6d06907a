"""Studies for tests: a manifest as the suite part writes it, and results that nobody had to compute."""

from __future__ import annotations

import json

from capaboost_vit.run import train
from capaboost_vit.study.manifest import Study, run_config
from capaboost_vit.study.trial import make_trial
from capaboost_vit.vision.config import TrainConfig

LORA = {"name": "lora", "rank": 2, "alpha": 2.0, "num_branches": 1, "density": 1.0, "pattern": "random"}
METHODS = {
    "head": {"name": "head"},
    "lora": LORA,
    "random": {**LORA, "num_branches": 2, "density": None},
    "sign": {**LORA, "num_branches": 2, "density": None, "pattern": "sign"},
}
VIT = {"patch_size": 4, "embed_dim": 32, "depth": 3, "num_heads": 2}
COMMON = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": VIT,
    "img_size": 16,
    "epochs": 3,
    "batch_size": 64,
    "lr": 5e-3,
}
COMMON |= {"val_split": None, "workers": 0, "crop_mode": "squash", "crop_pct": 1.0}
MACHINE = {"device": "cpu: a test", "threads": 1, "processes": 1, "versions": {"capaboost_vit": "0", "torch": "2"}}


def trial(label, task, seed, *, group="", notes=(), suite="digits", backbone="tiny", shots=None, stage="final", **more):
    """A trial; `more` are options of the run, and `weights`."""
    weights = more.pop("weights", None)
    options = {**COMMON, "data": f"digits:{task}", "method": METHODS.get(label, LORA), "seed": seed, "shots": shots}
    config = TrainConfig(**{**options, **more})
    fields = {"suite": suite, "task": task, "group": group, "classes": None, "notes": tuple(notes), "method": label}
    return make_trial(config, **fields, backbone=backbone, stage=stage, weights=weights)


def result(trial, accuracy, **more):
    """What result.json of a trial would hold."""
    method = {name: value for name, value in trial.config["method"].items() if name != "name"}
    return {
        "test_accuracy": accuracy,
        "val_accuracy": accuracy,
        "test_right": round(10 * accuracy),
        "test_total": 1000,
        "train_seconds": 10.0,
        "method": [{"method": trial.config["method"]["name"], **method}],
        "parameters": {"trained": 1000, "branches": 0 if trial.method == "head" else 700, "total": 5000},
        "config": trial.config,
        "machine": MACHINE,
        **more,
    }


def write(folder, accuracies, *, missing=()):
    """A study of (trial, accuracy) pairs, and of trials that are not run yet."""
    study = Study(folder)
    study.add([*(one for one, _ in accuracies), *missing])
    for one, accuracy in accuracies:
        place = study.run_folder(one)
        place.mkdir(parents=True, exist_ok=True)
        (place / "result.json").write_text(json.dumps(result(one, accuracy)))
    return study


def run(folder, trials):
    """A study whose trials are really run."""
    study = Study(folder)
    kept, _ = study.add(trials)
    for one in kept:
        train(run_config(study, one))
    return study
