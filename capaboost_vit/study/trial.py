"""A trial: one method on one task with one seed, and what it is known by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal

from ..training.job import as_dict, run_identity
from ..vision.config import TrainConfig

_ID_DIGITS = 12
# options that say where something lies, not what it is
_PLACES = {"data", "initial_checkpoint"}


@dataclass(frozen=True)
class Trial:
    """One line of a study's manifest.

    Args:
        id: hash of all the rest, less where things lie and what they are called.
        method: the label of its row: the name of the method's file.
        backbone: a preset, or the name of a timm model.
        stage: "candidate" trains on a part and never sees the test split; "final" is tested once.
        shots: training images per class; None: all of them.
        weights: SHA-256 of the local file of base weights; None: those that the model's name says.
        config: the options of the run, as `capaboost_vit.training.job.plain` gives them.
    """

    id: str
    suite: str
    task: str
    group: str
    classes: int | None
    notes: tuple[str, ...]
    method: str
    backbone: str
    stage: Literal["candidate", "final"]
    seed: int
    shots: int | None
    weights: str | None
    config: dict[str, Any]

    def identity(self) -> dict[str, Any]:
        """What makes it another trial."""
        fields = {name: getattr(self, name) for name in ("suite", "task", "backbone", "stage", "weights")}
        return identity_of(self.config, **fields)

    def own_options(self) -> dict[str, Any]:
        """The options of its identity that are not at their defaults."""
        defaults = as_dict(TrainConfig())
        return {name: value for name, value in self.identity()["options"].items() if defaults.get(name) != value}

    def title(self) -> str:
        """How people are told of it."""
        shots = "" if self.shots is None else f", {self.shots} shots"
        stage = "" if self.stage == "final" else ", candidate"
        return f"{self.method} on {self.task}, seed {self.seed}{shots}{stage}"


def make_trial(config: TrainConfig, **fields: Any) -> Trial:
    """A trial of a run's configuration, with the id that follows from all of it; `fields` are the others of Trial."""
    options = {name: value for name, value in as_dict(config).items() if name != "output"}
    trial = Trial(id="", seed=config.seed, shots=config.shots, config=options, **fields)
    return dataclasses.replace(trial, id=digest(trial.identity())[:_ID_DIGITS])


def identity_of(config: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What makes a trial another one: options of its run, each with its default where it is lacking, and `fields`."""
    return {
        **fields,
        "options": {name: value for name, value in run_identity(config, TrainConfig).items() if name not in _PLACES},
    }


def digest(value: Any) -> str:
    """SHA-256 of a value as canonical JSON, in which 8 and 8.0 are the same."""
    same = json.loads(json.dumps(value), parse_float=_number)
    return hashlib.sha256(json.dumps(same, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
