"""`capaboost bench vtab-time`: the time of the whole VTAB-1k, from rounds of the real loop, or run in full."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch

from ..study.suites.task import choose
from ..study.suites.vtab1k import TASKS, Vtab
from ..training.distributed import pick_device
from ..vision.registry import parse_name
from .goals import Goal
from .loop import Laps, loop_clock
from .loop_config import VtabTimeConfig
from .machine import machine
from .speed import Say
from .timing import Budget, Clock, timing
from .vtab_task import PARTS, run_tasks, train_task

GOAL = 600.0  # seconds on a GPU
_OF_THE_GOAL = {"epochs": 100, "train_images": 1000, "batch_size": 64, "img_size": (None, 224), "model_kwargs": {}}


def measure_vtab_time(
    config: VtabTimeConfig, *, command: str, say: Say, budget: Budget | None = None
) -> dict[str, Any]:
    """Measures rounds of the loop and extrapolates them, or with `full` runs every task; returns the result file.

    A round is the loop's own epoch made short: updates of full size, the smaller one that ends an epoch, an evaluation
    on batches of the test, a checkpoint. What is not in it: decoding image files, and drawing pictures. Arguments as
    `measure_speed` has them.

    Raises:
        ValueError: no such task, model or device; or results of tasks that were measured otherwise.
    """
    start = time.monotonic()
    budget = Budget(config.budget, within=budget)
    tasks, device = choose(TASKS, config.tasks), pick_device(config.device)
    torch.set_num_threads(config.threads)
    clock = loop_clock(device, config.threads)
    result: dict[str, Any] = {
        "kind": "vtab-time",
        "command": command,
        "config": dataclasses.asdict(config),
        "device": device.type,
        "clock": clock.name,
        "machine": machine(),
        "tasks": [{"name": task.name, "classes": task.classes, "test_images": task.test_images} for task in tasks],
        "measured": None,
        "full": None,
        "time": None,
        "left_out": [],
    }
    if config.full:
        full = run_tasks(config, tasks, device, clock, say, budget)
        result["full"], result["left_out"] = full["tasks"], [f"{name}: no time left" for name in full["left_out"]]
        if not full["left_out"]:
            result["time"] = _sums(full["tasks"])
    else:
        result["measured"] = _measure(config, tasks, device, clock, say, budget, result["left_out"])
        if result["measured"] is not None:
            result["time"] = extrapolate(result["measured"], tasks, config)
    result["goals"] = [dataclasses.asdict(goal) for goal in goals_of(result)]
    result["seconds"] = time.monotonic() - start
    return result


def update_sizes(config: VtabTimeConfig) -> list[int]:
    """The images of each update of an epoch."""
    whole, rest = divmod(config.train_images, config.batch_size)
    return [config.batch_size] * whole + [rest] * (rest > 0)


def extrapolate(measured: Mapping[str, Any], tasks: Sequence[Vtab], config: VtabTimeConfig) -> dict[str, Any]:
    """Seconds of all tasks, by part and together.

        training    = tasks * epochs * sum over the updates of an epoch of the median for their size
        test        = images of all tests * median of a batch / its images
        checkpoints = tasks * epochs * median
        building, starting = those of the first start + (tasks - 1) * those of the last one

    Returns:
        `parts`, `total`, and `quartiles`: the total with first, and with third quartiles in place of the medians.
    """
    n, first, last = len(tasks), measured["starts"][0], measured["starts"][-1]
    images = sum(task.test_images for task in tasks)

    def parts(which: int) -> dict[str, float]:
        def seconds(entry: Mapping[str, Any]) -> float:
            return float([entry["quartiles"][0], entry["median"], entry["quartiles"][1]][which])

        epoch = sum(seconds(measured["updates"][str(size)]) for size in update_sizes(config))
        return {
            "training": n * config.epochs * epoch,
            "test": images * seconds(measured["test_batch"]) / config.validation_batch_size,
            "checkpoints": n * config.epochs * seconds(measured["checkpoint"]),
            **{name: first[name] + (n - 1) * last[name] for name in ("building", "starting")},
        }

    low, middle, high = (parts(which) for which in range(3))
    return {
        "parts": middle,
        "total": sum(middle.values()),
        "quartiles": [sum(low.values()), sum(high.values())],
    }


def summarise(starts: Sequence[tuple[float, Laps]], *, per_round: int, warmup: int, batches: int) -> dict[str, Any]:
    """Medians and quartiles of what recurs, over all starts; and what each start took beyond the medians.

    Args:
        starts: the seconds of building and the laps of each.
        per_round: updates of a round.
        warmup: rounds that do not count; their surplus is what starting takes.
        batches: of the test, in a round.
    """
    by_size: dict[int, list[float]] = {}
    for _, laps in starts:
        for images, seconds in laps.updates[warmup * per_round :]:
            by_size.setdefault(images, []).append(seconds)
    updates = {images: timing(seconds) for images, seconds in by_size.items()}
    test = timing([seconds / batches for _, laps in starts for seconds in laps.evaluations[warmup:]])
    found = []
    for building, laps in starts:
        training = sum(seconds - updates[images].median for images, seconds in laps.updates[: warmup * per_round])
        testing = sum(laps.evaluations[:warmup]) - warmup * batches * test.median
        found.append({"building": building, "starting": max(0.0, training) + max(0.0, testing)})
    return {
        "updates": {str(images): dataclasses.asdict(one) for images, one in updates.items()},
        "test_batch": dataclasses.asdict(test),
        "checkpoint": dataclasses.asdict(timing([seconds for _, laps in starts for seconds in laps.checkpoints])),
        "starts": found,
    }


def goals_of(result: Mapping[str, Any]) -> list[Goal]:
    """The goal, if this result is of its workload: all of VTAB-1k with ViT-B/16 at 224 px on a GPU."""
    config, parsed = result["config"], parse_name(result["config"]["model"])
    base = parsed[0] if parsed else config["model"].partition(".")[0]
    right = base == "vit_base_patch16_224" and len(result["tasks"]) == len(TASKS) and result["device"] == "cuda"
    for name, wanted in _OF_THE_GOAL.items():
        right = right and (config[name] in wanted if isinstance(wanted, tuple) else config[name] == wanted)
    if not right or result["time"] is None:
        return []
    total = result["time"]["total"]
    name = "GPU: whole VTAB-1k, ViT-B/16, one seed (minutes)"
    return [Goal(name if result["full"] else f"{name}, extrapolated", f"<= {GOAL / 60:.0f}", total / 60, total <= GOAL)]


def _measure(
    config: VtabTimeConfig,
    tasks: Sequence[Vtab],
    device: torch.device,
    clock: Clock,
    say: Say,
    budget: Budget,
    left_out: list[str],
) -> dict[str, Any] | None:
    """Some rounds of some tasks, one task after the other in this process, as the whole would run."""
    sizes = update_sizes(config)
    sizes = sizes[: config.updates] + sizes[config.updates :][-1:]
    rounds = config.warmup + config.repetitions
    starts = []
    for i in range(config.starts):
        title = f"start {i + 1} of {config.starts}"
        if budget.left() <= 0:
            left_out.append(f"{title}: no time left")
            continue
        say(title)
        building, run, laps = train_task(
            config,
            tasks[i % len(tasks)],
            device,
            clock,
            epochs=rounds,
            images=sum(sizes),
            evaluated=True,
            progress=partial(_say_round, say, title, len(sizes), rounds),
        )
        starts.append((building, laps))
        del run  # before the next one is built
    if not starts:
        return None
    return summarise(starts, per_round=len(sizes), warmup=config.warmup, batches=config.test_batches)


def _say_round(say: Say, title: str, per_round: int, rounds: int, done: int) -> None:
    say(f"{title}: round {1 + (done - 1) // per_round} of {rounds}")


def _sums(tasks: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """The parts of all tasks, and all of them."""
    parts = {name: sum(task[name] for task in tasks.values()) for name in PARTS}
    return {"parts": parts, "total": sum(task["total"] for task in tasks.values()), "quartiles": None}
