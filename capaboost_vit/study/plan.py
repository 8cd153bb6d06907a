"""From what a study compares to its trials."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm

from ..io.options import nearest, suggest
from ..methods import METHODS
from ..vision.config import TrainConfig
from ..vision.registry import parse_name
from .config import StudyConfig, StudyRunConfig, StudyTuneConfig
from .methods import over, points, read_method, resolved
from .selection import Candidate, Choice, choice_key
from .suites.opening import open_suite
from .suites.task import SuiteTask
from .trial import Trial, make_trial

# ViT-B/16, pretrained on ImageNet-21k: two checkpoints whose numbers must never stand in one column
BACKBONES = {
    "augreg_in21k": "vit_base_patch16_224.augreg_in21k",
    "orig_in21k": "vit_base_patch16_224.orig_in21k",
}


def final_trials(config: StudyRunConfig, choices: Mapping[str, Choice] | None = None) -> list[Trial]:
    """A trial for each seed, task, number of shots and method, in this order: each seed alone is a whole table.

    Args:
        choices: options by `choice_key`, over those of the method.

    Raises:
        FileNotFoundError, ValueError, TypeError: a file, task, option or method that does not exist or fit; a cell
            without a choice; two methods with the same options.
    """
    plan = Plan(config)
    trials = []
    for seed, cell in itertools.product(config.seeds, plan.cells()):
        if choices is not None and cell.key not in choices:
            raise ValueError(f"nothing was chosen for {cell.key}: run capaboost study tune with the same options first")
        chosen = {} if choices is None else choices[cell.key]["options"]
        trials.append(plan.trial(cell, chosen, seed, "final"))
    labels: dict[str, str] = {}
    for trial in trials:
        other = labels.setdefault(trial.id, trial.method)
        if other != trial.method:
            raise ValueError(f"the methods {other!r} and {trial.method!r} have the same options: leave one out")
    return trials


def candidate_trials(config: StudyTuneConfig) -> dict[str, list[Candidate]]:
    """The candidates by `choice_key`.

    Raises:
        FileNotFoundError, ValueError, TypeError: as for `final_trials`; a task without a val split; an empty grid; an
            option of the grid that none of the methods has.
    """
    plan = Plan(config)
    candidates = {
        cell.key: [
            Candidate(point, [plan.trial(cell, point, seed, "candidate") for seed in config.tune_seeds])
            for point in points(config.grid, plan.methods[cell.method])
        ]
        for cell in plan.cells()
    }
    plan.check_grid(name for cell in candidates.values() for candidate in cell for name in candidate.options)
    return candidates


class Cell(NamedTuple):
    """One method on one task, with so many training images per class (None: all); `key` is its `choice_key`."""

    key: str
    task: SuiteTask
    shots: int | None
    method: str


class Plan:
    """A configuration with its suite, the options of its methods by name, its backbone, and its base weights."""

    def __init__(self, config: StudyConfig) -> None:
        self.config = config
        self.suite = open_suite(config.suite, data=config.data, tasks=config.tasks)
        self.methods: dict[str, dict[str, Any]] = {}
        for path in map(Path, config.methods):
            if path.stem in self.methods:
                raise ValueError(f"two methods are called {path.stem!r}: rename a file")
            self.methods[path.stem] = over(read_method(path), config.set)
        model = config.backbone or self._of_all_methods("model", "--backbone") or BACKBONES["augreg_in21k"]
        presets = {} if config.backbone else {name: preset for preset, name in BACKBONES.items()}
        self.backbone = presets.get(model, model)
        _check_backbone(self.backbone)
        weights = config.initial_checkpoint or self._of_all_methods("initial_checkpoint", "--initial-checkpoint")
        if weights is not None and not Path(weights).is_file():
            raise FileNotFoundError(f"no base weights at {weights}")
        self.initial_checkpoint = None if weights is None else _anywhere(weights)
        self.weights = None if weights is None else hashlib.sha256(Path(weights).read_bytes()).hexdigest()

    def _of_all_methods(self, name: str, flag: str) -> str | None:
        """What the files of the methods say of the backbone that they share; None where none says anything."""
        files = {options[name]: method for method, options in self.methods.items() if options.get(name)}
        if len(files) > 1:
            values = ", ".join(f"{value} in {method}" for value, method in files.items())
            raise ValueError(f"the methods have different backbones ({name}: {values}): say {flag} for all of them")
        return next(iter(files), None)

    def cells(self) -> Iterator[Cell]:
        """All cells: tasks by numbers of shots by methods."""
        for task, shots, method in itertools.product(self.suite.tasks, self.config.shots or (None,), self.methods):
            yield Cell(choice_key(task.name, method, self.backbone, shots), task, shots, method)

    def check_grid(self, options: Iterable[str]) -> None:
        """Raises ValueError for an option of the grid that no method has; `options` are those that one has."""
        assert isinstance(self.config, StudyTuneConfig)
        for name in self.config.grid.keys() - set(options):
            names = {f"method.{option}" for values in self.methods.values() for option in values["method"]}
            raise ValueError(f"--grid {name}: none of the methods has this option{suggest(name, names)}")

    def trial(self, cell: Cell, chosen: Mapping[str, Any], seed: int, stage: Literal["candidate", "final"]) -> Trial:
        """A trial of a method with `chosen` over its options, and the task's over those of the method's file.

        Raises ValueError for a candidate on a task without a val split, and options that the suite says otherwise.
        """
        _, task, shots, method = cell
        final, options = stage == "final", over(self.methods[method], chosen)
        if not final and task.val is None:
            raise ValueError(f"{task.name} has no val split to choose by: leave it out of --tasks")
        for name, value in {**self.config.set, **chosen}.items():
            if task.options.get(name, value) != value:
                raise ValueError(
                    f"{name} {value} for all tasks, but the suite says {task.options[name]} for the task {task.name}: "
                    "leave one of them out"
                )
        resolved_method = resolved(**options["method"])
        if "mask_seed" in METHODS[resolved_method["name"]].__dataclass_fields__:
            resolved_method.setdefault("mask_seed", seed)  # the spread over seeds is to hold that of the masks
        values = {
            "pretrained": self.initial_checkpoint is None,
            **options,
            **task.options,
            "model": BACKBONES.get(self.backbone, self.backbone),
            "initial_checkpoint": self.initial_checkpoint,
            "data": _anywhere(task.data),
            "train_split": task.full if final else task.train,
            "val_split": None if final else task.val,
            "test_split": task.test if final else None,
            "seed": seed,
            "shots": shots,
            "method": resolved_method,
        }
        fields = {"task": task.name, "group": task.group, "classes": task.classes, "notes": task.notes}
        fields |= {"suite": self.suite.name, "method": method, "backbone": self.backbone}
        return make_trial(TrainConfig(**values), **fields, stage=stage, weights=self.weights)


def _anywhere(place: str) -> str:
    """A path that is there as workers in other folders find it; hub ids and the like as they are."""
    path = Path(place).expanduser()
    return str(path.resolve()) if path.exists() else place


def _check_backbone(name: str) -> None:
    """Raises ValueError for a backbone that is neither a preset nor a timm model."""
    model = BACKBONES.get(name, name)
    if not timm.is_model(model) or parse_name(model):
        near = [nearest(name, BACKBONES), *timm.list_models(f"*{name.partition('.')[0]}*")[:2]]
        hint = f" (did you mean {', '.join(filter(None, near))}?)" if any(near) else ""
        raise ValueError(f"--backbone {name!r} is neither {' nor '.join(BACKBONES)} nor a plain timm model{hint}")
