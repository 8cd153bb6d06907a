"""The workers of a study, on this machine or a Ray cluster: started, watched, started again, and stopped together."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from ..io.options import flag
from ..training.signals import Interrupted, StopSignals
from .config import WORKER_OPTIONS, WorkConfig
from .manifest import Study
from .status import progress_line, states
from .work import work

_GRACE = 120.0  # seconds that workers have for a last checkpoint
_LOOK = 0.5  # seconds between two looks at the workers
_TELL = 5.0  # seconds between two looks at the study


def run_workers(study: Study, config: WorkConfig) -> None:
    """Computes with `config.workers` workers until no trial is open; one that dies is replaced.

    On this machine each is a process that writes to `workers/N.log`, and has one GPU (with more workers than GPUs they
    share them) or its part of the CPU's cores. On Ray each is a task; all machines see the study's folder, and what the
    driver's paths name, under the same paths, and have this package.

    Raises:
        Interrupted: a signal came; the workers were told, and have saved what they had.
        RuntimeError: workers die before they begin anything.
        ModuleNotFoundError: Ray is not installed. ConnectionError: no cluster at `config.ray_address`.
    """
    signal_number = (_run_tasks if config.on == "ray" else _run_processes)(study, config)
    if signal_number:
        message = f"stopped; go on with the same command: what is finished in {study.path} stays"
        raise Interrupted(signal_number, message)


def work_command(study: Study, config: WorkConfig) -> list[str]:
    """The command, after `capaboost`, that starts one of this study's workers."""
    options = [word for name in WORKER_OPTIONS for word in (flag(name), json.dumps(getattr(config, name)))]
    return ["study", "work", "--output", str(study.path), *options]


class _Progress:
    """Prints how far a study is whenever that has changed."""

    def __init__(self, study: Study) -> None:
        self.study, self.line, self.looked = study, "", -math.inf

    def tell(self, *, now: bool) -> None:
        """Looks at the study, all of whose files are read, no more often than every few seconds, or `now`."""
        if not now and time.monotonic() - self.looked < _TELL:
            return
        before, self.line, self.looked = self.line, progress_line(states(self.study)), time.monotonic()
        if self.line != before:
            print(self.line)


def _run_processes(study: Study, config: WorkConfig) -> int:
    """Runs processes of this machine; returns the number of the signal that has stopped them, or 0."""
    gpus, progress = config.gpus or _visible_gpus(), _Progress(study)
    running: dict[int, subprocess.Popen[bytes]] = {}
    begun: dict[int, float] = {}
    quick_deaths = 0

    def start(number: int) -> None:
        running[number] = _start(study, config, number, gpus)
        begun[number] = time.monotonic()

    with StopSignals() as stop:
        try:
            for number in range(config.workers):
                start(number)
            while running and not stop.number:
                time.sleep(_LOOK)
                for number, process in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[number]
                    if code == 0 or not study.open_trials():
                        continue
                    quick_deaths = quick_deaths + 1 if time.monotonic() - begun[number] < 10 else 0
                    if quick_deaths > 2 * config.workers:
                        raise RuntimeError(f"the workers die as they begin: see {_log(study, number)}")
                    print(f"worker {number} died (exit code {code}): another one is started")
                    start(number)
                progress.tell(now=not running)
        finally:
            _end(list(running.values()))
    return stop.number


def _visible_gpus() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES names, else the numbers of all GPUs; empty without any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip())
    return tuple(map(str, range(torch.cuda.device_count())))


def _start(study: Study, config: WorkConfig, number: int, gpus: Sequence[str]) -> subprocess.Popen[bytes]:
    environment = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // config.workers)), **os.environ}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    log = _log(study, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "capaboost_vit.cli", *work_command(study, config)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C comes to them through us, once
        )


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _GRACE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(study: Study, number: int) -> Path:
    return study.path / "workers" / f"{number}.log"


def _run_tasks(study: Study, config: WorkConfig) -> int:
    """Runs Ray tasks, of which Ray begins one again whose process or machine died; returns as `_run_processes` does."""
    import ray

    started_here = not ray.is_initialized()
    if started_here:
        ray.init(address=config.ray_address, log_to_driver=False, include_dashboard=False)
    task = ray.remote(_work).options(
        num_cpus=config.worker_cpus, num_gpus=config.worker_gpus, max_retries=-1, name="capaboost study work"
    )
    progress = _Progress(study)
    with StopSignals() as stop:  # behind ray.init, which takes SIGTERM for itself
        try:
            tasks = [task.remote(study.path.resolve(), os.getcwd(), config) for _ in range(config.workers)]
            waiting = tasks
            while waiting and not stop.number:
                done, waiting = ray.wait(waiting, timeout=_LOOK)
                ray.get(done)  # raises what a worker has raised
                progress.tell(now=not waiting)
            if stop.number:
                for each in tasks:
                    ray.cancel(each)
                until = time.monotonic() + _GRACE
                while waiting and time.monotonic() < until:
                    waiting = ray.wait(waiting, timeout=_LOOK)[1]
        finally:
            if started_here:
                ray.shutdown()
    return stop.number


def _work(folder: Path, home: str, config: WorkConfig) -> int:
    os.chdir(home)  # data may be named from there
    return work(Study(folder), config)
