"""The raw results of a study in one file: what was run, by which options, and what came out."""

from __future__ import annotations

import json
from typing import Any

from ..study.choose import read_choices
from ..study.manifest import Study
from ..study.status import states
from ..study.trial import Trial

_RESULTS = (
    *("val_accuracy", "test_accuracy", "test_right", "test_total", "epochs", "updates"),
    *("train_seconds", "images_per_second", "memory_mb", "parameters"),
)


def as_json(study: Study) -> str:
    """All trials, candidates too, a line each, and what was chosen of them; nothing in it says where files lay.

    `options` are those of `capaboost train` that are not at their defaults; `weights` is the SHA-256 of the base
    weights' file; accuracies are in per cent, and null where nobody asked for them.

    Raises:
        FileNotFoundError: there is no study. ValueError: a damaged result, or damaged choices.
    """
    lines = ",\n".join(json.dumps(_line(study, trial, state)) for trial, state in states(study))
    choices = json.dumps(read_choices(study) if study.choices.exists() else {})
    return f'{{"trials": [\n{lines}\n],\n"choices": {choices}}}\n'


def _line(study: Study, trial: Trial, state: str) -> dict[str, Any]:
    options = {name: value for name, value in trial.own_options().items() if name not in ("seed", "shots")}
    known = {name: getattr(trial, name) for name in ("id", "suite", "task", "group", "method", "backbone", "stage")}
    known |= {"seed": trial.seed, "shots": trial.shots, "weights": trial.weights, "state": state, "options": options}
    if state != "finished":
        return known
    result = study.result(trial) or {}
    device = result.get("machine", {}).get("device")
    return {**known, **{name: result[name] for name in _RESULTS if name in result}, "device": device}
