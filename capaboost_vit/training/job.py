"""Everything that a run works with, whatever it is trained on."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .config import RunConfig
from .distributed import ProcessGroup
from .objective import Objective
from .state import State

# options that change neither the weights nor the table of a run
_FREE = {
    "output",
    "workers",
    "cache",
    "resume",
    "overwrite",
    "allow_config_change",
    "checkpoint_interval",
    "data_dir",
    "data_download",
}


@dataclass
class Job:
    """A configuration with everything that was built from it."""

    config: RunConfig
    world: ProcessGroup
    title: str  # of pictures
    data: str  # the data set, as people are told
    classes: tuple[str, ...]
    sizes: dict[str, int]  # examples by split
    names: Callable[[int], str]  # of a training example
    state: State
    objective: Objective
    train: Any  # Updates, with `close`
    val: Any | None  # batches, with `close`
    test: Any | None
    prepare: Callable[[Any], Any]
    save: Callable[[Path], Path]  # writes what was trained into the folder of a run
    record: dict[str, Any]  # what a run that goes on must have in common with this one
    mix: Callable[[Any], Any] = lambda batch: batch
    extra_tests: dict[str, Any] = field(default_factory=dict)  # more test batches, by name
    calibrate: Callable[[Tensor, Any], None] | None = None  # with what is found on val, before the test
    extra_results: dict[str, Any] = field(default_factory=dict)  # goes into result.json, with the record of the data
    warnings: list[str] = field(default_factory=list)

    @property
    def model(self) -> Any:
        """The model on its device."""
        return self.state.model

    def close(self) -> None:
        """Ends the loader processes."""
        for batches in (self.train, self.val, self.test):
            if batches is not None:
                batches.close()


def start_lines(job: Job) -> Iterator[str]:
    """What is said at the start of a run."""
    sizes = ", ".join(f"{name} {size}" for name, size in job.sizes.items())
    trained = sum(p.numel() for p in job.state.trained())
    classes = f"{len(job.classes)} classes, " if job.classes else ""
    yield (
        f"{job.config.model} on {job.data}: {classes}{sizes}; "
        f"{trained:,} of {sum(p.numel() for p in job.model.parameters()):,} parameters trained"
    )
    for warning in job.warnings:
        yield f"warning: {warning}"


def as_dict(config: RunConfig) -> dict[str, Any]:
    """The configuration as YAML and JSON hold it, less what was said of an earlier run in the folder."""
    alone = dataclasses.replace(config, resume=False, overwrite=False, allow_config_change=False)
    values = {field.name: getattr(alone, field.name) for field in dataclasses.fields(alone)}
    values["method"] = {} if alone.method is None else alone.method.as_given()
    plain_values: dict[str, Any] = json.loads(json.dumps(values))
    return plain_values


def run_identity(config: dict[str, Any], kind: type[RunConfig]) -> dict[str, Any]:
    """The options that decide about weights and table: what a run that goes on must have in common.

    Options that the configuration lacks, as it is of an older release, stand at their defaults.
    """
    values = {**as_dict(kind()), **config}
    if values["model"] == str(Path(values["output"]).parent / "dapt" / "model"):  # moves with the run
        values["model"] = "dapt/model"
    return {name: value for name, value in values.items() if name not in _FREE}
