"""Training job: a configuration with everything that was built from it, whatever it is trained on."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ..core.base import gathered
from ..core.inject import wrappers
from ..io.sealed import digest
from .config import EARLIER, RunConfig
from .distributed import ProcessGroup
from .evaluation import evaluate, forward
from .frozen_front import FrontExamples
from .loader import EvalLoader, TrainLoader
from .objective import MeanLoss, Objective, with_selected
from .optim import make_optimizer
from .sharding import held
from .state import State

# options that are no part of a run's identity: they change neither its weights nor its table
_FREE = {
    "output",
    "workers",
    "cache",
    "resume",
    "overwrite",
    "allow_config_change",
    "checkpoint_interval",
    "timeout",
    "data_dir",
    "data_download",
    "log_to",
}
_COMPARED = ("model", "data", "epochs", "batch_size", "lr", "weight_decay", "seed")


@dataclass
class Job:
    """A configuration with everything that was built from it.

    Args:
        title: of pictures.
        data: the data set's name in the log.
        sizes: examples by split. splits: fingerprints by split.
        names: name of a training example, by its index.
        val, test: None where there is no such split.
        prepare: moves a batch to the device and normalises it there.
        save: writes what was trained, with its temperature, into the folder of a run; returns the path.
        mix: batch augmentation.
        extra_tests: more test batches, by name.
        calibrate: takes a threshold from what is accumulated on val, before the test.
        network: what is called for the logits, with the parameters of the model; None: the model.
        front: the training examples behind a frozen front, where that is computed once.
        lines: of the log.
        tasks: where there are several, the task of each class.
        extra_results: goes into result.json, with the record of the data.
    """

    config: RunConfig
    world: ProcessGroup
    title: str
    data: str
    classes: tuple[str, ...]
    sizes: dict[str, int]
    splits: dict[str, Any]
    names: Callable[[int], str]
    state: State
    objective: Objective
    train: TrainLoader
    val: EvalLoader | None
    test: EvalLoader | None
    prepare: Callable[[Any], Any]
    save: Callable[[Path, float], Path]
    mix: Callable[[Any], Any] = lambda batch: batch
    extra_tests: dict[str, EvalLoader] = field(default_factory=dict)
    calibrate: Callable[[Tensor, Any], None] | None = None
    extra_results: dict[str, Any] = field(default_factory=dict)
    network: nn.Module | None = None
    front: FrontExamples | None = None
    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    tasks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.objective = with_selected(self.objective, self.config.select)
        frozen = {name: p for name, p in self.model.named_parameters() if not p.requires_grad}
        # the identity of the run: what one that goes on must have in common with it; of the model as it was built
        self.record: dict[str, Any] = {
            "config": run_identity(as_dict(self.config), type(self.config)),
            "processes": self.world.size,
            "device": self.state.device.type,
            "data": {"classes": len(self.classes), "splits": self.splits},
            "base": digest(frozen, read=gathered),
        }

    @property
    def model(self) -> Any:
        """The model on its device."""
        return self.state.model

    @property
    def called(self) -> nn.Module:
        """What is called for the logits."""
        return self.model if self.network is None else self.network

    def logits(self, inputs: Any) -> Tensor:
        """Of a prepared batch, in full precision: for stages before the first update."""
        return forward(self.called, inputs, dataclasses.replace(self.config, amp=False, compile=False))

    def optimizer(self) -> Optimizer:
        """A new one of the run's kind and rate, over what is trained now: for what comes before the first update."""
        return make_optimizer(self.model, self.config)

    def mean_loss(self, batches: EvalLoader | Sequence[Any]) -> float:
        """Over held-out batches, in evaluation mode."""
        mean = MeanLoss(self.objective, getattr(batches, "indices", None))
        self.evaluate(batches, also=mean.add)
        return mean.result(self.world)

    def evaluate(
        self, batches: EvalLoader | Sequence[Any], *, model: nn.Module | None = None, **options: Any
    ) -> Tensor:
        """The objective's accumulator over batches, of the network or of the compiled one; see `evaluate`."""
        options |= {"prepare": self.prepare, "config": self.config, "objective": self.objective, "world": self.world}
        return evaluate(self.called if model is None else model, batches, **options)

    def close(self) -> None:
        """Ends the loader processes."""
        for batches in (self.train, self.val, self.test):
            if batches is not None:
                batches.close()


def require_val(config: RunConfig, splits: Collection[str], name: str | None = "val", *, instead: str = "") -> None:
    """Raises ValueError where the configuration chooses the epoch on val, and there is no such split.

    `instead`: what may be typed beside --select last.
    """
    if name not in splits and (config.patience is not None or config.select != "last"):
        raise ValueError(
            f"{config.data} has no split {name!r}, which --patience and each --select but last need: say --select last"
            + (f", or {instead}" if instead else "")
        )


def start_lines(job: Job) -> Iterator[str]:
    """The first lines of a run's log."""
    sizes = ", ".join(f"{name} {size}" for name, size in job.sizes.items())
    parameters = parameter_counts(job.model)
    classes = f"{len(job.classes)} classes, " if job.classes else ""
    yield (
        f"{job.config.model} on {job.data}: {classes}{sizes}; "
        f"{parameters['trained']:,} of {parameters['total']:,} parameters trained"
    )
    if job.config.fsdp:
        yield f"sharded: of all parameters each of the {job.world.size} processes holds {held(job.model):,}"
    yield from job.lines
    for warning in (*job.warnings, *(job.config.method.cautions() if job.config.method else ())):
        yield f"warning: {warning}"


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Numbers of parameters: those with a gradient, those of the branches, all."""
    return {
        "trained": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "branches": sum({id(p): p.numel() for _, w in wrappers(model) for p in w.added_parameters()}.values()),
        "total": sum(p.numel() for p in model.parameters()),
    }


def as_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as YAML and JSON hold it, less what it says of an earlier run in the folder."""
    alone = dataclasses.replace(config, resume=False, overwrite=False, allow_config_change=False)
    values = {field.name: getattr(alone, field.name) for field in dataclasses.fields(alone)}
    values["method"] = {} if alone.method is None else alone.method.as_given()
    plain_values: dict[str, Any] = json.loads(json.dumps(values))
    return plain_values


def hyperparameters(config: RunConfig) -> dict[str, str | bool | int | float]:
    """The options by which runs are compared, by flat names: the usual ones, and those that are not at their defaults.

    Options of the method stand at `method.NAME`; lists and the like are JSON.
    """
    options, defaults = run_identity(as_dict(config), type(config)), _defaults(type(config))
    method = options.pop("method")
    options = {name: value for name, value in options.items() if name in _COMPARED or value != defaults[name]}
    options |= {f"method.{name}": value for name, value in method.items()}
    options["method"] = config.method.name if config.method else "none"
    return {
        name: value if isinstance(value, str | bool | int | float) else json.dumps(value)
        for name, value in options.items()
    }


def run_identity(config: dict[str, Any], kind: type[RunConfig]) -> dict[str, Any]:
    """The options that identify a run, as they decide about its weights and its table.

    Options that the configuration lacks, as it is of an older release, stand at what that did.
    """
    values = {**_defaults(kind), **EARLIER, **config}
    if values["model"] == str(Path(values["output"]).parent / "dapt" / "model"):  # moves with the run
        values["model"] = "dapt/model"
    return {name: value for name, value in values.items() if name not in _FREE}


# a study asks for each of its trials, and checking all options takes a millisecond
_defaults: Callable[[Any], dict[str, Any]] = functools.cache(lambda kind: as_dict(kind()))
