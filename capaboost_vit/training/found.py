"""Options that a method leaves open: found on val before a run, which is then built anew with them."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..core.seeds import seeded
from ..io.json import read_object
from ..methods import Method
from .config import RunConfig
from .distributed import broadcast
from .folder import RunFolder
from .job import Job
from .log import Log
from .resume import is_changed

RECORD = "found.json"


def is_open(method: Method | None) -> bool:
    """Whether some option of a method is none that a run has to find."""
    return method is not None and any(getattr(method, name) is None for name in method.finds)


def find_options(job: Job, folder: RunFolder, config: RunConfig) -> RunConfig:
    """The configuration of a job with what its method finds, or has found in the run that goes on.

    found.json holds it. The model of the job is used up. The folder is locked, and what stands in it is that of this
    run.

    Raises ValueError for a run that was begun with other options or data, and what `Method.find` raises.
    """
    assert config.method is not None
    method = config.method.with_found(_found(job, folder, config.method))
    return dataclasses.replace(config, method=method, overwrite=False)  # the folder is emptied


def _found(job: Job, folder: RunFolder, method: Method) -> dict[str, Any]:
    """The options, by name."""
    world = job.world
    earlier = broadcast(_earlier(job, folder) if world.is_main else None, world)
    if earlier is not None:
        is_changed(folder, earlier["identity"], job.record, job.config)
        return dict(earlier["found"])
    log = Log(folder.path, updates=job.state.updates, active=world.is_main, events=False)
    if world.is_main:
        if job.config.overwrite:
            folder.empty()
        folder.write_status("running", 0)
    log.say(f"{method.name} finds on val: {', '.join(method.finds)}")
    try:
        with seeded("find", job.config.seed, devices=job.state.device.type != "cpu"):
            found = broadcast(dict(method.find(job, log.say)), world)
    except Exception as error:
        if world.is_main:
            folder.write_status("failed", 0, error=" ".join(str(error).split()))
        raise
    finally:
        log.close()
    if world.is_main:
        folder.write_json(RECORD, {"identity": job.record, "found": found})
    return found


def _earlier(job: Job, folder: RunFolder) -> dict[str, Any] | None:
    """The record of the run that goes on; a damaged file is none."""
    if job.config.resume:
        try:
            return read_object(folder.path / RECORD, {"identity": dict[str, Any], "found": dict[str, Any]})
        except (FileNotFoundError, ValueError):
            pass
    return None
