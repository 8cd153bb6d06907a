"""A trial: one line of a study's manifest, and what it is known by."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..io.json import parse_object
from ..io.options import check_type, hints_of
from ..io.printable import printable
from ..training.config import EARLIER
from ..training.job import as_dict, run_identity
from ..vision.config import TrainConfig

_ID_DIGITS = 12
# options that say where something lies, not what it is
_PLACES = {"data", "initial_checkpoint"}
# options that came later, with the values that stand for what earlier releases did
_LATER = {
    "value_range": None,
    "fsdp": False,
    "class_weights": None,
    "task": None,
    "sampling": "shuffle",
    "opt_eps": None,
    "initial_adapter": None,
    **EARLIER,
}
_LATER_OF_METHODS = {
    "use_rslora": False,
    "loraplus_lr_ratio": 1.0,
    "rank_dropout": 0.0,
    "coefficients": None,
    "coefficient_lr_ratio": 1.0,
    "share_blocks": 1,
    "share_shapes": False,
    "internal_prompt": False,
    "tied": False,
}
# what makes it another trial, besides the options of its run
_IDENTITY = ("suite", "task", "backbone", "stage", "weights")


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
        config: the options of the run, as `capaboost_vit.training.job.as_dict` gives them.
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

    def key(self) -> str:
        """What it is known by whatever its id, which an older release may have given."""
        return key_of(self.config, vars(self))

    def title(self) -> str:
        """How people are told of it."""
        shots = "" if self.shots is None else f", {self.shots} shots"
        stage = "" if self.stage == "final" else ", candidate"
        return f"{self.method} on {self.task}, seed {self.seed}{shots}{stage}"


def make_trial(config: TrainConfig, **fields: Any) -> Trial:
    """A trial of a run's configuration, with the id that follows from all of it; `fields` are the others of Trial.

    Raises:
        ValueError: a name with characters that cannot be shown; tags or numbers, which have no accuracy.
    """
    if config.task not in (None, "classification"):
        raise ValueError(refused_task(config.data, config.task))
    options = {name: value for name, value in as_dict(config).items() if name != "output"}
    trial = Trial(id="", seed=config.seed, shots=config.shots, config=options, **fields)
    _check_names(trial)
    return dataclasses.replace(trial, id=trial.key()[:_ID_DIGITS])


def refused_task(data: str, task: str) -> str:
    """Why the images of a data set can be no task of a study."""
    return (
        f"{data} is for {task}, and studies tell methods apart by accuracy, of one class per image: train each with "
        "capaboost train, and capaboost report makes one table of the runs"
    )


def key_of(config: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    """SHA-256 of what makes a trial another one: of its run's options and of the `fields` that Trial has too.

    It is that of canonical JSON, in which 8 and 8.0 are the same.
    """
    return _hash(identifying_options(config), fields)


def parse_trial(line: bytes) -> Trial:
    """The trial in a line of a manifest.

    Raises:
        ValueError: the line is no trial, or its id is not the hash of the rest: the file was damaged or edited.
    """
    hints = hints_of(Trial)
    values = parse_object(line, hints)
    trial = Trial(**{name: values[name] for name in hints} | {"notes": tuple(values["notes"])})
    _check_names(trial)
    config, options = trial.config, hints_of(TrainConfig) | {"method": dict[str, Any]}
    try:
        for name in options.keys() & config.keys():  # others are of another release
            check_type(name, config[name], options[name])
    except TypeError as error:
        raise ValueError(f"config: {error}") from None
    if (trial.seed, trial.shots) != (config.get("seed"), config.get("shots")):
        raise ValueError("its seed or shots are not those of its config")
    identity = identifying_options(config)
    # the release that wrote it may have lacked options that are at their defaults now
    written = {name: value for name, value in identity.items() if name in config}
    if trial.id not in [_hash(options, values)[:_ID_DIGITS] for options in (identity, written)]:
        raise ValueError(f"its id {trial.id[:20]!r} is not the hash of what it says")
    return trial


def identifying_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run that make it another one, wherever its data lie, each with its default where it lacks.

    Options that came later are left out where they are as in earlier releases, so that the ids of those hold.
    """
    options = run_identity(dict(config), TrainConfig)
    options["method"] = _without(options["method"], _LATER_OF_METHODS)
    return {name: value for name, value in _without(options, _LATER).items() if name not in _PLACES}


def _without(options: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Options without the later ones that are as in earlier releases."""
    return {name: value for name, value in options.items() if name not in later or value != later[name]}


def _check_names(trial: Trial) -> None:
    """Raises ValueError unless the names of a trial can stand in every table, drawing and terminal."""
    for name in (trial.suite, trial.task, trial.group, trial.method, trial.backbone, *trial.notes):
        if name != printable(name):
            raise ValueError(f"{name!r} holds characters that cannot be shown: rename it")


def _hash(options: Mapping[str, Any], fields: Mapping[str, Any]) -> str:
    identity = {name: fields[name] for name in _IDENTITY} | {"options": options}
    same = json.loads(json.dumps(identity), parse_float=_number)
    return hashlib.sha256(json.dumps(same, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _number(text: str) -> float:
    number = float(text)
    return int(number) if number.is_integer() else number
