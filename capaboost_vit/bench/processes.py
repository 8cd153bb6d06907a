"""`capaboost bench processes`: what several processes gain, each with a GPU or cores of its own."""

from __future__ import annotations

import dataclasses
import os
import socket
import statistics
import time
from contextlib import suppress
from multiprocessing.connection import wait
from typing import Any, NamedTuple

import torch
from torch import multiprocessing

from ..training.distributed import ProcessGroup, initialized, parallel, pick_device
from .cases import scale_cases
from .config import ProcessesConfig
from .models import make_subject
from .steps import TrainingStep
from .timing import WHOLE, Clock, Lap, Session, clock_for, ratios


class Case(NamedTuple):
    """So many processes, and the images or texts of an update in all of them."""

    processes: int
    batch_size: int


def measure_processes(config: ProcessesConfig, session: Session) -> dict[str, Any]:
    """Times a training step on each number of processes in turn, round by round.

    `batch_size` is that of one process, so that the update of n processes has n times as many examples; then once more
    that of the whole update. The efficiency of n processes is `examples per second / (n * those of one process)`, the
    median over the rounds. CPU times are those of the first process: unlike the others they leave out what else the
    machine has to do, but also what a process waits for another.

    Raises:
        ValueError: what `make_subject` refuses. ChildProcessError: see `Pool`.
    """
    subject = make_subject(config)  # a mistake shows before any process is started
    pools: dict[Case, Pool] = {}
    try:
        for case in cases_of(config, subject.device, session):
            session.say(f"starting {case.processes} processes for updates of {case.batch_size}")
            pools[case] = Pool(config, case)
        times = session.interleave(
            "processes",
            {case: pool.step for case, pool in pools.items()},
            clock=Clock("wall time", time.perf_counter),
            rounds=config.repetitions,
            warmup=config.warmup,
            seed=config.seed,
        )
    finally:
        for pool in pools.values():
            pool.close()
    alone = times[Case(1, config.batch_size)]
    rows = []
    for case, pool in pools.items():
        count, size, phases = *case, times[case]
        ideal = size / config.batch_size / count  # time over that of one process
        high, efficiency, low = (ideal / ratio for ratio in ratios(phases, alone))
        seconds = statistics.median(phases[WHOLE])
        row = {"processes": count, "batch, each": f"{size / count:g}", "in all": size, "update ms": 1000 * seconds}
        row |= {"CPU ms": 1000 * statistics.median(pool.cpu_seconds[config.warmup :]), "examples/s": size / seconds}
        row |= {"efficiency": efficiency, "+-": (high - low) / 2}
        row["reduced kB"] = pool.trained_bytes / 1000 if count > 1 else 0.0
        rows.append({**row, "times": phases})
    return {**subject.about("wall time"), "tables": {"updates": rows}}


def cases_of(config: ProcessesConfig, device: torch.device, session: Session) -> list[Case]:
    """One process; then each other number with as many examples per process, and with as many in all.

    Numbers for which there are not enough GPUs are left out.
    """
    gpus = torch.cuda.device_count() if device.type == "cuda" else None
    cases = [Case(1, config.batch_size)]
    for count in sorted({*(config.processes or (2, gpus or 2))} - {1}):
        if gpus is not None and count > gpus:
            session.left_out.append(f"{count} processes: GPUs here: {gpus}")
        else:
            cases += [Case(count, count * config.batch_size), Case(count, config.batch_size)]
    return cases


class Pool:
    """The processes of a case, with one model in DistributedDataParallel; they wait to be asked for a step.

    Raises:
        ChildProcessError: one of them fails; one that waits for another gives up as torch.distributed does.
    """

    def __init__(self, workload: ProcessesConfig, case: Case) -> None:
        context = multiprocessing.get_context("spawn")
        self.cpu_seconds: list[float] = []  # of the first process, for each step
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        ends = [context.Pipe() for _ in range(case.processes)]
        self.pipes = [ours for ours, _ in ends]
        self.processes = [
            context.Process(target=_work, args=(workload, case, rank, port, theirs), daemon=True)
            for rank, (_, theirs) in enumerate(ends)
        ]
        for process, (_, theirs) in zip(self.processes, ends, strict=True):
            process.start()
            theirs.close()  # open here too, the end of the process would not be seen
        self.trained_bytes = self._answer()

    def step(self, lap: Lap = lambda phase: None) -> None:
        """Makes an update."""
        for pipe in self.pipes:
            with suppress(OSError):  # of a process that has died: its answer says so
                pipe.send("step")
        self.cpu_seconds.append(self._answer())

    def close(self) -> None:
        """Ends the processes."""
        for process in self.processes:
            process.kill()
            process.join()

    def _answer(self) -> Any:
        """The first process's answer, once all have answered; the first failure, which others may follow."""
        answers: dict[Any, Any] = {}
        while len(answers) < len(self.pipes):
            pipes: list[Any] = wait([pipe for pipe in self.pipes if pipe not in answers])
            for pipe in pipes:
                try:
                    answers[pipe] = pipe.recv()
                except (EOFError, OSError):  # closed, or reset where it was killed
                    answers[pipe] = "one has died"
                if isinstance(answers[pipe], str):
                    self.close()
                    raise ChildProcessError(f"{len(self.pipes)} processes failed: {answers[pipe]}")
        return answers[self.pipes[0]]


def _work(workload: ProcessesConfig, case: Case, rank: int, port: int, pipe: Any) -> None:
    """One process: its share of every update; what goes wrong is answered as a text."""
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(case.processes)}
    world = ProcessGroup(rank, case.processes, rank)
    try:
        torch.set_num_threads(workload.threads)
        device = pick_device(workload.device, rank)
        share = max(1, len(range(rank, case.batch_size, case.processes)))
        subject = make_subject(dataclasses.replace(workload, batch_size=share, device=str(device)))
        clock = clock_for(device, threads=0)
        with initialized(world, device):
            step = TrainingStep(scale_cases(subject.family, workload)[-1], subject, workload)
            step.called = parallel(step.called, world, device)
            pipe.send(sum(p.nbytes for p in step.trained))
            while pipe.recv():
                start = time.process_time()
                step()
                clock.settle()
                pipe.send(time.process_time() - start)
    except EOFError:  # whoever asked is gone
        pass
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")
