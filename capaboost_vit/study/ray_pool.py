"""The workers of a study as tasks on a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

from ..training.signals import StopSignals
from .config import WorkConfig
from .manifest import Study
from .status import ProgressLine, interrupted
from .work import work

_LOOK = 2.0  # seconds between two looks at the tasks


def run_on_ray(study: Study, config: WorkConfig, *, say: Callable[[str], None]) -> None:
    """Runs `config.workers` Ray tasks until no trial is open; Ray begins one again whose process or machine died.

    All machines see the study's folder, and what the driver's paths name, under the same paths, and have this package.

    Raises:
        ModuleNotFoundError: Ray is not installed.
        ConnectionError: no cluster at `config.ray_address`.
        Interrupted: a signal came; the tasks were told, and have saved what they had.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("Ray is not installed: pip install capaboost_vit[ray]", name="ray") from error
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=config.ray_address, log_to_driver=False, include_dashboard=False)
    options: dict[str, Any] = {"lease": config.lease, "attempts": config.attempts, "keep_models": config.keep_models}
    task = ray.remote(_task).options(
        num_cpus=config.worker_cpus, num_gpus=config.worker_gpus, max_retries=-1, name="capaboost study work"
    )
    with StopSignals() as stop:
        try:
            waiting = [task.remote(str(study.path.resolve()), os.getcwd(), options) for _ in range(config.workers)]
            tasks, progress = waiting, ProgressLine(study, say)
            while waiting and not stop.number:
                done, waiting = ray.wait(waiting, timeout=_LOOK)
                ray.get(done)  # raises what a worker has raised
                progress.tell()
            if stop.number:
                for each in tasks:
                    ray.cancel(each)
                until = time.monotonic() + 60
                while waiting and time.monotonic() < until:
                    waiting = ray.wait(waiting, timeout=_LOOK)[1]
        finally:
            if started_here:
                ray.shutdown()
    if stop.number:
        raise interrupted(study, stop.number)


def _task(folder: str, home: str, options: dict[str, Any]) -> int:
    os.chdir(home)  # data may be named from there
    return work(Study(folder), **options)
