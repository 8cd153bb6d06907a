"""The configurations of what is measured in the real training loop: plain dataclasses without torch, as config.py's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..io.options import option
from .config import Common, at_least_one


@dataclass(frozen=True)
class LoopWorkload(Common):
    """What is trained, and how; options and defaults are those of `capaboost train` where it has them."""

    model: str = option("vit_base_capaboost_lora", "timm model name; *_capaboost_* names bring their method with them")
    method: dict[str, Any] = option({}, "method options; `name` is needed where the model's name has no method")
    batch_size: int = option(64, "images of one update")
    grad_accum_steps: int = option(1, "parts in which the images of an update are computed, to save memory")


@dataclass(frozen=True)
class VtabTimeConfig(LoopWorkload):
    """The time of the whole VTAB-1k with one seed: 19 tasks, one test each, with synthetic images."""

    full: bool = option(False, "run all of it, for a GPU; tasks that an earlier call has finished are not run again")
    tasks: tuple[str, ...] = option(("*",), "names or wildcards of tasks, such as cifar100 dsprites_*")
    epochs: int = option(100, "passes over the training images")
    train_images: int = option(1000, "training images of a task")
    num_classes: int | None = option(
        None,
        "classes of every head, 397 or more: what is compiled for one task then serves all; none: the task's own",
    )
    validation_batch_size: int = option(256, "images at a time in the test")
    threads: int = option(1, "threads of a CPU; with one, the clock is the CPU time of the process")
    updates: int = option(15, "updates of full size in a round; then comes the smaller one that ends an epoch")
    test_batches: int = option(8, "batches of the test in a round")
    warmup: int = option(1, "rounds before, whose surplus counts as the start of a task")
    repetitions: int = option(5, "rounds that are measured")
    starts: int = option(2, "models that are measured in turn: the first may have more to compile than others")
    output: str = option("runs/bench/vtab_time.json", "result file; a table (.md) and the tasks' results beside it")

    def __post_init__(self) -> None:
        names = ("epochs", "train_images", "threads", "updates", "test_batches", "warmup", "repetitions", "starts")
        at_least_one(self, *names, "batch_size", "validation_batch_size")


@dataclass(frozen=True)
class ProcessesConfig(LoopWorkload):
    """Images per second of the training loop on one process and on several, each with a GPU or cores of its own."""

    processes: tuple[int, ...] = option((), "numbers of processes; none: 1, 2 and, on GPUs, as many as there are")
    threads: int | None = option(
        None, "threads of each process on a CPU; none: the cores, divided by the largest number of processes"
    )
    updates: int = option(20, "updates that are measured in each launch")
    warmup: int = option(5, "updates before, which do not count")
    repetitions: int = option(3, "rounds in which every number of processes is launched once")
    timeout: float = option(600.0, "seconds after which a launch is given up")
    output: str = option("runs/bench/processes.json", "result file; a table (.md) beside it")

    def __post_init__(self) -> None:
        at_least_one(self, "updates", "warmup", "repetitions", "batch_size")
        for count in (*self.processes, *(() if self.threads is None else (self.threads,))):
            if count < 1:
                raise ValueError(f"--processes and --threads must be at least 1, got {count}")
