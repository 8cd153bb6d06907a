"""`capaboost bench processes`: what several processes gain, each with a GPU or cores of its own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..training.distributed import pick_device
from .loop import settings
from .loop_config import ProcessesConfig
from .machine import machine
from .speed import Say
from .timing import Budget, quartiles, timing

_CLASSES = 100
_GRACE = 30.0  # seconds for torchrun to end its processes

Launch = Callable[[dict[str, Any], int, float], dict[str, Any]]


class Case(NamedTuple):
    """So many processes, and the images of an update in all of them."""

    processes: int
    batch_size: int


def measure_processes(
    config: ProcessesConfig, *, command: str, say: Say, budget: Budget | None = None, launch: Launch | None = None
) -> dict[str, Any]:
    """Launches the real loop on each number of processes in turn, round by round; returns the result file.

    `batch_size` is that of one process, so that the update of n processes has n times as many images; then once more
    that of the whole update. The efficiency of n processes is `images per second / (n * those of one process)`, the
    median over the rounds. All processes have as many threads, in whichever number they are: like GPUs, they bring
    their cores with them. Arguments as `measure_speed` has them; `launch` stands in for torchrun.

    Raises:
        ValueError: no such device. ChildProcessError: a launch has failed, or took longer than `timeout`.
    """
    start = time.monotonic()
    budget = Budget(config.budget, within=budget)
    launch = launch or torchrun
    device = pick_device(config.device)
    counts, left_out = _counts(config, device)
    threads = None if device.type == "cuda" else config.threads or max(1, (os.cpu_count() or 1) // max(counts))
    cases = cases_of(counts, config.batch_size)
    found: dict[Case, list[dict[str, Any]]] = {case: [] for case in cases}
    for i in range(config.repetitions):
        for case in cases:
            title = f"round {i + 1}, {case.processes} processes, updates of {case.batch_size}"
            if budget.left() <= 0:
                left_out.append(f"{title}: no time left")
                continue
            say(title)
            train = settings(config, batch_size=case.batch_size, max_steps=config.warmup + config.updates)
            options = {"train": dataclasses.asdict(train), "classes": _CLASSES, "threads": threads}
            found[case].append(launch(options, case.processes, config.timeout))
    return {
        "kind": "processes",
        "command": command,
        "config": dataclasses.asdict(config),
        "device": device.type,
        "clock": "wall time",
        "machine": machine(),
        "threads": threads,
        "cases": [summary(case, found, config) for case in cases if found[case]],
        "left_out": left_out,
        "seconds": time.monotonic() - start,
    }


def cases_of(counts: tuple[int, ...], batch_size: int) -> list[Case]:
    """One process; then each other number with as many images per process, and with as many in all."""
    cases = [Case(1, batch_size)]
    for count in counts:
        if count > 1:
            cases += [Case(count, count * batch_size), Case(count, batch_size)]
    return cases


def summary(case: Case, found: Mapping[Case, list[dict[str, Any]]], config: ProcessesConfig) -> dict[str, Any]:
    """Times, images per second and efficiency of a case, the median of each launch being one value.

    `cpu_seconds` are those of the first process: unlike the others they leave out what else the machine has to do, but
    also what a process waits for another.
    """
    alone = Case(1, config.batch_size)
    speeds = {
        other: [other.batch_size / _median(launched, config.warmup) for launched in found[other]]
        for other in (case, alone)
    }
    # launches that lie in one round; the budget may have left out some of the last
    ratios = [speed / (case.processes * one) for speed, one in zip(speeds[case], speeds[alone], strict=False)]
    low, efficiency, high = quartiles(ratios)
    return {
        "processes": case.processes,
        "batch_size": case.batch_size,
        "per_process": case.batch_size / case.processes,
        "update": dataclasses.asdict(timing([_median(launched, config.warmup) for launched in found[case]])),
        "cpu_seconds": statistics.median(_median(launched, config.warmup, "cpu_seconds") for launched in found[case]),
        "images_per_second": statistics.median(speeds[case]),
        "efficiency": efficiency,
        "efficiency_quartiles": [low, high],
        "reduced_bytes": found[case][0]["trained_bytes"] if case.processes > 1 else 0,
        "launches": found[case],
    }


def torchrun(options: dict[str, Any], processes: int, timeout: float) -> dict[str, Any]:
    """Runs worker.py in so many processes, which meet at a free port of this machine; returns what the first writes.

    Raises:
        ChildProcessError: it failed, or had not ended after so many seconds (then all its processes are ended).
    """
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(options["threads"] or 1)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "options.json").write_text(json.dumps(options))
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command += ["-m", "capaboost_vit.bench.worker", str(folder / "options.json"), str(folder / "result.json")]
        with open(folder / "log", "w+b") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                raise ChildProcessError(f"{processes} processes have not ended after {timeout:g} s") from None
            finally:
                _end(process)
        if code:
            said = (folder / "log").read_text(errors="replace")
            raise ChildProcessError(f"{processes} processes failed with {code}: {_reason(said)}")
        found: dict[str, Any] = json.loads((folder / "result.json").read_text())
        return found


def _reason(said: str) -> str:
    """The first error in what the processes and torchrun have said, without its traceback; or all of it."""
    lines = (re.match(r"(?:\[rank\d+\]:\s*)?([\w.]*(?:Error|Exception): .*)", line) for line in said.splitlines())
    return next((found[1] for found in lines if found), said.strip())


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends torchrun and thereby the processes that it has started, if it is still there."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _counts(config: ProcessesConfig, device: torch.device) -> tuple[tuple[int, ...], list[str]]:
    """The numbers of processes, and those for which there are not enough GPUs."""
    gpus = torch.cuda.device_count() if device.type == "cuda" else None
    counts = sorted({*(config.processes or (1, 2, gpus or 1))})
    if gpus is None:
        return tuple(counts), []
    left_out = [f"{count} processes: GPUs here: {gpus}" for count in counts if count > gpus]
    return tuple(count for count in counts if count <= gpus) or (1,), left_out


def _median(launched: Mapping[str, Any], warmup: int, of: str = "seconds") -> float:
    return statistics.median(launched[of][warmup:])
