"""The raw results of a study in one file: what was run, by which options, and what came out."""

from __future__ import annotations

import json
from typing import Any

from ..known import NUMBERS
from ..manifest import Study
from ..status import states
from ..trial import Trial
from .outcomes import Outcomes


def as_json(study: Study, outcomes: Outcomes) -> str:
    """All trials, candidates too, a line each, and what was chosen of them; nothing in it says where files lay.

    `options` are those of `capaboost train` that are not at their defaults; `weights` is the SHA-256 of the base
    weights' file; accuracies are in per cent, and null where nobody asked for them. A damaged result stops nothing.
    """
    finals = {outcome.trial.id: (outcome.state, outcome.result) for outcome in outcomes.finals}
    lines = [
        _line(trial, *finals.get(trial.id) or _of_candidate(study, trial, state)) for trial, state in states(study)
    ]
    text = ",\n".join(lines)
    return f'{{"trials": [\n{text}\n],\n"choices": {json.dumps(outcomes.choices)}}}\n'


def _of_candidate(study: Study, trial: Trial, state: str) -> tuple[str, dict[str, Any] | None]:
    try:
        return state, study.result(trial)
    except ValueError:
        return "damaged", None


def _line(trial: Trial, state: str, result: dict[str, Any] | None) -> str:
    options = {name: value for name, value in trial.own_options().items() if name not in ("seed", "shots")}
    known = {name: getattr(trial, name) for name in ("id", "suite", "task", "group", "method", "backbone", "stage")}
    known |= {"seed": trial.seed, "shots": trial.shots, "weights": trial.weights, "state": state, "options": options}
    if result is not None:
        known |= {name: result[name] for name in NUMBERS if name in result}
        known["device"] = result.get("machine", {}).get("device")
    return json.dumps(known)
