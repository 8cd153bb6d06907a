"""`capaboost bench speed` and `scale`: what a training step costs, in groups of cases, and as one thing grows."""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from .cases import FLOOR, Case, group_of_cases, inference_cases, scale_cases
from .compare import Comparison
from .config import SETS, ScaleConfig, SpeedConfig
from .goals import judge
from .memory import memory_of, stored_inputs
from .models import family_of
from .steps import Inference, TrainingStep, layer_passes
from .timing import Session

_LEAST_OF_LAYER = 0.02  # seconds that one timing lasts at least
_ROUNDS_OF_INFERENCE = 4  # times as many, for three short cases and a goal of one per cent

# what grows: the option that it is, and the option that lists its values
_AXES = {
    "batch size": ("batch_size", "batch_sizes"),
    "image size": ("img_size", "img_sizes"),
    "tokens": ("seq_len", "seq_lens"),
    "model": ("model", "models"),
    "rank": ("rank", "ranks"),
    "branches": ("num_branches", "branch_counts"),
}


def measure_speed(config: SpeedConfig, session: Session) -> dict[str, Any]:
    """Measures what the configuration names: `groups`, `inference`, `import_seconds`, and the `goals`.

    Raises:
        ValueError: what `make_subject` refuses.
    """
    comparison = Comparison(config, session)
    result: dict[str, Any] = {**comparison.about(), "groups": {}, "inference": None, "import_seconds": None}
    if "import" in config.measures:
        result["import_seconds"] = import_seconds()
    for group in config.groups if {"step", "memory", "layer"} & {*config.measures} else ():
        result["groups"][group] = _measure_group(config, group, comparison)
    if "inference" in config.measures:
        cases = inference_cases(comparison.subject.family, "all-linears", config.rank)
        calls = comparison.prepare("inference", cases, lambda case: Inference(case, comparison.subject, config))
        if "base" in calls:
            rounds = _ROUNDS_OF_INFERENCE * config.repetitions
            result["inference"] = comparison.time("inference", calls, "base", rounds=rounds)
    return {**result, "goals": judge(config.goals, result)}


def _measure_group(config: SpeedConfig, group: str, comparison: Comparison) -> dict[str, Any]:
    """The cases of a group: their steps, their memory, and their layers alone."""
    subject = comparison.subject
    cases = chosen(group_of_cases(subject.family, group, config.rank), config.cases)
    targets = subject.family.targets.get(group, ())
    measured: dict[str, Any] = {"targets": list(targets), "cases": {}, "layers": {}}
    memory: dict[str, Any] = {}

    def make(case: Case) -> TrainingStep:
        step = TrainingStep(case, subject, config)
        if "memory" in config.measures:
            step()  # the optimizer gets its state
            memory[case.name] = {"memory": memory_of(step)}
        return step

    steps = comparison.prepare(group, cases, make)
    if FLOOR not in steps:
        return measured
    if "memory" in config.measures and group in SETS:
        measured["stored_inputs"] = stored_inputs(steps[FLOOR], subject.family.places(subject.base, targets))
    timed = comparison.time(group, steps, FLOOR) if "step" in config.measures else {}
    for case in cases:
        if case.name in steps:
            about = {"what": case.what, "trained": sum(p.numel() for p in steps[case.name].trained)}
            measured["cases"][case.name] = {**about, **timed.get(case.name, {}), **memory.get(case.name, {})}
    if "layer" in config.measures:
        for layer, name in subject.family.first_layers(subject.base, targets).items():
            title = f"{group}, layer {layer}"
            if comparison.session.has_time(title):
                passes = layer_passes(steps, name)
                measured["layers"][layer] = comparison.time(title, passes, FLOOR, least=_LEAST_OF_LAYER)
    return measured


def chosen(cases: list[Case], patterns: Sequence[str]) -> list[Case]:
    """The floor, and the cases that the patterns match, in the order of the patterns: the first get the time first."""
    wanted = [FLOOR, *patterns]
    matched = {case.name: [i for i, p in enumerate(wanted) if fnmatchcase(case.name, p)] for case in cases}
    return sorted((case for case in cases if matched[case.name]), key=lambda case: matched[case.name][0])


def import_seconds(repetitions: int = 3) -> float:
    """Seconds of `import capaboost_vit` and what is behind it, beyond importing timm: the median of new processes."""
    code = "import time, timm; start = time.perf_counter(); import capaboost_vit; capaboost_vit.adapt; "
    command = [sys.executable, "-W", "ignore", "-c", f"{code}print(time.perf_counter() - start)"]
    # this very package, wherever it is called from
    path = os.pathsep.join(filter(None, [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH")]))
    options: dict[str, Any] = {"env": {**os.environ, "PYTHONPATH": path}, "capture_output": True, "check": True}
    return statistics.median(float(subprocess.run(command, **options).stdout) for _ in range(repetitions))


def measure_scale(config: ScaleConfig, session: Session) -> dict[str, Any]:
    """Measures the floor, PEFT's LoRA and CapaBoost-LoRA at each point of the `axes`.

    One thing grows at a time, from the configuration's own values. Raises what `measure_speed` raises.
    """
    points = axes(config)
    for point in (point for values in points.values() for point in values.values()):
        family_of(point)  # before the first hour is spent
    result: dict[str, Any] = {**Comparison(config, session).about(), "axes": {}}
    for axis, values in points.items():
        for value, point in values.items():
            if cases := _measure_point(f"{axis} {value}", point, session):
                result["axes"].setdefault(axis, []).append({"value": value, "cases": cases})
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return result


def _measure_point(title: str, point: ScaleConfig, session: Session) -> dict[str, Any]:
    comparison = Comparison(point, session)
    cases = scale_cases(comparison.subject.family, point)
    steps = comparison.prepare(title, cases, lambda case: TrainingStep(case, comparison.subject, point))
    return comparison.time(title, steps, FLOOR) if FLOOR in steps else {}


def axes(config: ScaleConfig) -> dict[str, dict[Any, ScaleConfig]]:
    """By axis and value: the configuration in which nothing else has changed."""
    return {
        axis: {value: dataclasses.replace(config, **{name: value}) for value in getattr(config, values)}
        for axis, (name, values) in _AXES.items()
        if getattr(config, values)
    }
