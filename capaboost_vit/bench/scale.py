"""`capaboost bench scale`: what a training step costs as batch, image, model, rank or number of branches grows."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch

from ..vision.adapt import adapt
from .cases import FLOOR, Case, TrainingStep, lora_cases
from .config import TARGETS, ScaleConfig
from .machine import machine
from .speed import Say, measure, prepare, summary_of, warm_up
from .timing import Budget, clock_for

OURS = "capaboost"


def measure_scale(config: ScaleConfig, *, command: str, say: Say, budget: Budget | None = None) -> dict[str, Any]:
    """Runs the floor, PEFT's LoRA and CapaBoost-LoRA at each point of each axis; returns what the result file holds.

    One thing grows at a time, from the configuration's own values. Arguments and errors as `measure_speed` has them.
    """
    start = time.monotonic()
    budget = Budget(config.budget, within=budget)
    batch = prepare(config)
    result: dict[str, Any] = {
        "kind": "scale",
        "command": command,
        "config": dataclasses.asdict(config),
        "device": batch.images.device.type,
        "image_size": batch.images.shape[-1],
        "clock": clock_for(batch.images.device, config.threads).name,
        "machine": machine(),
        "axes": {},
        "left_out": [],
    }
    for axis, points in axes(config).items():
        for value, point in points:
            title = f"{axis} {value}"
            batch = prepare(point)
            cases = scale_cases(point)
            steps, _ = warm_up(cases, TrainingStep, batch, point, budget, say, result["left_out"], title)
            if FLOOR in steps:
                times = measure(steps, point, batch, budget, say, title)
                found = {"value": value, "cases": summary_of(times, FLOOR, point.batch_size)}
                result["axes"].setdefault(axis, []).append(found)
            del steps, batch
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    result["seconds"] = time.monotonic() - start
    return result


def axes(config: ScaleConfig) -> dict[str, list[tuple[Any, ScaleConfig]]]:
    """By axis: the values, each with the configuration in which nothing else has changed."""

    def along(field: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ScaleConfig]]:
        for value in values:
            yield value, dataclasses.replace(config, **{field: value})

    found = {
        "batch size": along("batch_size", config.batch_sizes),
        "image size": along("img_size", config.img_sizes),
        "model": along("model", config.models),
        "rank": along("rank", config.ranks),
        "branches": along("num_branches", config.branch_counts),
    }
    return {axis: points for axis, values in found.items() if (points := list(values))}


def scale_cases(config: ScaleConfig) -> list[Case]:
    """The floor, PEFT's LoRA, and ours with d branches (plain LoRA for one)."""
    targets, d = TARGETS[config.targets], config.num_branches
    others = [case for case in lora_cases(targets, config.rank) if case.name in (FLOOR, "peft")]
    build = partial(
        adapt,
        method="lora",
        rank=config.rank,
        alpha=float(config.rank),
        targets=targets,
        num_branches=d,
        density=1.0 if d == 1 else 0.5,
    )
    return [*others, Case(OURS, f"CapaBoost-LoRA d = {d}", build)]
