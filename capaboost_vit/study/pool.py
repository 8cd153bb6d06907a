"""Workers on this machine: started, watched, started again, and stopped together."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ..training.signals import StopSignals
from .config import WorkConfig
from .manifest import Study
from .status import ProgressLine, interrupted

_GRACE = 120.0  # seconds that workers have for a last checkpoint
_LOOK = 0.5  # seconds between two looks at the workers
_TELL = 5.0  # seconds between two looks at the study


def run_pool(study: Study, config: WorkConfig, *, say: Callable[[str], None]) -> None:
    """Runs `config.workers` processes until no trial is open; a worker that dies is replaced.

    Each writes to `workers/N.log`, and has one GPU (with more workers than GPUs they share them) or its part of the
    CPU's cores.

    Raises:
        Interrupted: a signal came; the workers were told, and have saved what they had.
        RuntimeError: workers die before they begin anything.
    """
    gpus = config.gpus or visible_gpus()
    running: dict[int, subprocess.Popen[bytes]] = {}
    begun, quick_deaths = {}, 0
    with StopSignals() as stop:
        try:
            for number in range(config.workers):
                running[number] = _start(study, config, number, gpus)
                begun[number] = time.monotonic()
            progress, told = ProgressLine(study, say), -_TELL
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
                    say(f"worker {number} died (exit code {code}): another one is started")
                    running[number] = _start(study, config, number, gpus)
                    begun[number] = time.monotonic()
                if running and time.monotonic() - told < _TELL:
                    continue
                progress.tell()
                told = time.monotonic()
        finally:
            _end(running)
    if stop.number:
        raise interrupted(study, stop.number)


def visible_gpus() -> tuple[str, ...]:
    """What CUDA_VISIBLE_DEVICES names, else the numbers of all GPUs; empty without any."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(word.strip() for word in named.split(",") if word.strip())
    import torch

    return tuple(map(str, range(torch.cuda.device_count())))


def work_options(study: Study, config: WorkConfig) -> list[str]:
    """The options of `capaboost study work` that make it one of this study's workers."""
    options = ["--output", str(study.path), "--lease", str(config.lease), "--attempts", str(config.attempts)]
    return [*options, "--keep-models", str(config.keep_models).lower()]


def _start(study: Study, config: WorkConfig, number: int, gpus: Sequence[str]) -> subprocess.Popen[bytes]:
    threads = max(1, (os.cpu_count() or 1) // config.workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    if gpus:
        environment["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    log = _log(study, number)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "capaboost_vit.cli", "study", "work", *work_options(study, config)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C comes to them through us, once
        )


def _end(running: dict[int, subprocess.Popen[bytes]]) -> None:
    for process in running.values():
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
    until = time.monotonic() + _GRACE
    for process in running.values():
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _log(study: Study, number: int) -> Path:
    return study.path / "workers" / f"{number}.log"
