"""Resuming a run: its newest checkpoint, and whether all that decides about its result is as at its start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..io.yaml import read_yaml
from .checkpoint import CheckpointError
from .config import EARLIER, RunConfig
from .folder import RunFolder, differences
from .job import Job, run_identity
from .machine import machine


def newest_state(job: Job, folder: RunFolder, note: Callable[[str], None]) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, if it is of this run; None where there is none. `note` takes log lines.

    Raises:
        CheckpointError: a run without a checkpoint, or none that can be read. ValueError: what `is_changed` refuses.
    """
    tree = folder.checkpoints.newest(note)
    if tree is None:
        if set(folder.present()) - {
            "config.yaml",
            "status.json",
            "tensorboard",
            "checkpoints",
            "found.json",
            "lr_search.json",
            "lr_search.png",
        }:
            raise CheckpointError(f"{folder.path} holds a run without a checkpoint: replace it with --overwrite")
        note(f"no checkpoint in {folder.path}: starting fresh")
        return None
    before = {**tree["record"], "config": run_identity(tree["record"]["config"], type(job.config))}
    is_changed(folder, before, job.record, job.config)
    if _val_record(before) != _val_record(job.record):
        tree["state"]["best"] = None
        tree["state"]["progress"] |= {"best_score": None, "best_epoch": None, "stale": 0}
        note("warning: the val split is another one: what was best on the one before counts no more")
    changed = differences(tree["machine"], machine(job.state.device, job.world))
    if changed:
        note(f"warning: not as at the checkpoint, so the last bits may differ: {'; '.join(changed)}")
    note(f"going on after update {tree['state']['progress']['update']} of {job.state.updates}")
    return tree


def earlier_options(folder: RunFolder, config: RunConfig) -> dict[str, Any]:
    """What the run in the folder was begun with, where the configuration leaves it open, so that it goes on like that.

    These are the options that it lacked, with what its release did, and the learning rate that it has found, with its
    warm-up.
    """
    file = folder.path / "config.yaml"
    begun = read_yaml(file) if file.is_file() else EARLIER
    options = {name: value for name, value in EARLIER.items() if name not in begun}
    if config.lr != "auto" or "lr" not in begun:
        return options
    found = {"lr": begun["lr"]}
    if config.warmup_steps is None and "warmup_steps" in begun:
        found["warmup_steps"] = begun["warmup_steps"]
    return {**options, **found}


def _val_record(record: dict[str, Any]) -> Any:
    """The fingerprint of the val split in the identity of a run."""
    return record["data"]["splits"].get(record["config"].get("val_split", "val"))


def is_changed(folder: RunFolder, before: dict[str, Any], now: dict[str, Any], config: RunConfig) -> bool:
    """Whether anything differs from the run's start. Raises ValueError that lists it, unless that is allowed."""
    changed = differences(before, now)
    if changed and not config.allow_config_change:
        names = "; ".join(line.removeprefix("config.") for line in changed)
        raise ValueError(
            f"{folder.path} was started otherwise ({names}): take that back, or add --allow-config-change if it need "
            "not come to the same result"
        )
    return bool(changed)
