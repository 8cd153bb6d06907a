"""`capaboost bench scale`: what a training step costs as batch, image, text, model, rank or branches grow."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Iterator
from typing import Any

import torch

from .cases import FLOOR, Case, TrainingStep, lora_cases, our_lora
from .config import ScaleConfig
from .models import Family, family_of
from .speed import Say, head_of, measure, prepare, summary_of, warm_up
from .timing import Budget

OURS = "capaboost"


def measure_scale(config: ScaleConfig, *, command: str, say: Say, budget: Budget | None = None) -> dict[str, Any]:
    """Runs the floor, PEFT's LoRA and CapaBoost-LoRA at each point of each axis; returns what the result file holds.

    One thing grows at a time, from the configuration's own values. Arguments and errors as `measure_speed` has them.
    """
    start = time.monotonic()
    budget = Budget(config.budget, within=budget)
    for points in axes(config).values():
        for _, point in points:
            family_of(point)  # before the first hour is spent
    batch = prepare(config)
    result: dict[str, Any] = {**head_of("scale", config, batch, command), "axes": {}, "left_out": []}
    for axis, points in axes(config).items():
        for value, point in points:
            title = f"{axis} {value}"
            batch = prepare(point)
            cases = scale_cases(batch.family, point)
            steps, _ = warm_up(cases, TrainingStep, batch, point, budget, say, result["left_out"], title)
            if FLOOR in steps:
                times = measure(steps, point, batch, budget, say, title)
                found = {"value": value, "cases": summary_of(times, FLOOR, batch)}
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
        "tokens": along("seq_len", config.seq_lens),
        "model": along("model", config.models),
        "rank": along("rank", config.ranks),
        "branches": along("num_branches", config.branch_counts),
    }
    return {axis: points for axis, values in found.items() if (points := list(values))}


def scale_cases(family: Family, config: ScaleConfig) -> list[Case]:
    """The floor, PEFT's LoRA, and ours with d branches (plain LoRA for one)."""
    d = config.num_branches
    others = [case for case in lora_cases(family, config.targets, config.rank) if case.name in (FLOOR, "peft")]
    ours = our_lora(family, family.targets[config.targets], config.rank, d)
    return [*others, Case(OURS, f"CapaBoost-LoRA d = {d}", ours)]
