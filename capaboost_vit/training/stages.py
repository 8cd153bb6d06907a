"""What comes before the first update of a run: the stages of its method, and short runs."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..core.seeds import seeded
from .job import Job
from .log import Log
from .loop import fit
from .optim import warmup_updates
from .signals import Interrupted, StopSignals
from .state import State


def run_stages(job: Job, log: Log, stop: StopSignals) -> None:
    """Does what the method wants done before the first update.

    Raises Interrupted if a signal came while a stage trained, of which nothing is kept.
    """
    config, state = job.config, job.state
    stages = [] if config.method is None else list(config.method.stages(job))
    for number, stage in enumerate(stages):
        log.say(f"stage {number + 1} of {len(stages)}: {stage.title}")
        if stage.updates:
            try:
                with _unwritten(log):
                    short_run(job, stage.updates, log, stop)
            except Interrupted as stopped:
                what = f"stopped in stage {number + 1} of {len(stages)}, which begin anew"
                raise Interrupted(stopped.number, what) from None
        with seeded("stage", config.seed, number, devices=state.device.type != "cpu"):
            stage.run()
    if stages and state.averages:
        state.averages.restart()


@contextmanager
def _unwritten(log: Log) -> Iterator[None]:
    """Within the block updates and epochs are shown and written nowhere; the clock of the run starts behind it."""
    writer, trackers = log.writer, log.trackers
    log.writer, log.trackers = None, []
    try:
        yield
    finally:
        log.writer, log.trackers, log.begun = writer, trackers, time.monotonic()


def short_run(job: Job, updates: int, log: Any, stop: StopSignals, **options: Any) -> State:
    """Trains a job's model from where it is for so many updates, with a schedule that ends there; its state.

    The share of warm-up is that of the run, the last model is kept, val is looked at once, at the end, and nothing is
    saved. `log` is a `Log`, or has what the loop calls of it; `options` are of the configuration.

    Raises what `fit` does.
    """
    short = copy.copy(job)  # not `replace`, which would take the fingerprint of all weights again
    short.config = dataclasses.replace(
        job.config,
        max_steps=updates,
        warmup_epochs=None,
        warmup_steps=warmup_updates(job.config, len(job.train)) / job.state.updates,
        select="last",
        patience=None,
        checkpoint_interval=None,
        val_interval=job.state.updates,  # at the end alone
        **options,
    )
    short.state = State(job.model, short.config, len(job.train))
    fit(short, log, save=lambda state: None, stop=stop)
    return short.state
