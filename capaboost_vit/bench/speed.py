"""`capaboost bench speed` and `scale`: what a training step costs, in groups of cases, and as one thing grows."""

from __future__ import annotations

import dataclasses
import gc
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from ..core.tied import factors_formed_once
from .cases import FLOOR, KEPT, Case, file_cases, group_of_cases, probe_cases, scale_cases
from .compare import Comparison, Row
from .config import FILES, SETS, ScaleConfig, SpeedConfig, Workload
from .inference_cases import fewer_cases, inference_cases, integer_cases
from .memory import memory_of, stored, stored_inputs
from .models import VISION, Subject, family_of
from .steps import Inference, TrainingStep, layer_passes
from .timing import WHOLE, Session, quartiles, ratios

_SHORT = 0.02  # seconds that one timing of something short lasts at least
_ROUNDS_OF_INFERENCE = 4  # times as many, for a few short cases and a goal of one per cent
_EPOCHS = 100  # of a linear probe

LEAST = "least"  # in the place of a case: what whoever trains the layers' factors must have in memory
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
    """Measures what the configuration names: a table for each group and for its layers, inference, layers of integers,
    what computes fewer operations than the plain model (of images), and import.

    Raises:
        ValueError: what `make_subject` refuses.
    """
    comparison = Comparison(config, session)
    tables: dict[str, list[Row]] = {}
    groups = (FILES,) if config.methods else config.groups
    for group in groups if {"step", "memory", "layer"} & {*config.measures} else ():
        tables |= _measure_group(config, group, comparison)
    family = comparison.subject.family
    cases_of = {"inference": lambda: inference_cases(family, "all-linears", config.rank)}
    cases_of |= {"fewer": fewer_cases} if family is VISION else {}
    cases_of |= {"integers": lambda: integer_cases(family, config.rank)}
    for name in [name for name in cases_of if name in config.measures]:
        calls = comparison.prepare(name, cases_of[name](), Inference)
        if "base" in calls:
            rounds = _ROUNDS_OF_INFERENCE * config.repetitions
            with factors_formed_once():  # as in an evaluation
                timed = comparison.time(name, calls, "base", rounds=rounds)
            tables[name] = [{**row, "state MB": stored(calls[case].model) / 1e6} for case, row in timed.items()]
    if "probe" in config.measures and (rows := _linear_probe(comparison)):
        tables["probe"] = rows
    if "import" in config.measures:
        tables["import"] = [{"": "import capaboost_vit, beyond timm", "s": import_seconds()}]
    return {**comparison.subject.about(comparison.clock.name), "tables": tables}


def _measure_group(config: SpeedConfig, group: str, comparison: Comparison) -> dict[str, list[Row]]:
    """The cases of a group, their steps and their memory; and their layers alone."""
    subject = comparison.subject
    family = subject.family
    named = file_cases(family, config.methods) if group == FILES else group_of_cases(family, group, config.rank)
    cases = chosen(named, config.cases)
    targets = family.targets.get(group, ())
    memory: dict[str, Row] = {}

    def make(case: Case, subject: Subject, workload: Workload) -> TrainingStep:
        step = TrainingStep(case, subject, workload)
        if "memory" in config.measures:
            step()  # the optimizer gets its state
            memory[case.name] = {f"{name} MB": size / 1e6 for name, size in memory_of(step).items()}
        return step

    steps = comparison.prepare(group, cases, make)
    if FLOOR not in steps:
        return {}
    timed = comparison.time(group, steps, FLOOR) if "step" in config.measures else {}
    rows: list[Row] = [
        {"case": case.name, **timed.get(case.name, {}), **memory.get(case.name, {}), "what": case.what}
        | {"trained": sum(p.numel() for p in steps[case.name].trained)}
        for case in cases
        if case.name in steps
    ]
    if memory and group in SETS:
        total, beyond = stored_inputs(steps[FLOOR], family.places(subject.base, targets))
        what = f"the floor and the layers' inputs, {total / 1e6:.1f} MB, of which it keeps all but {beyond / 1e6:.1f}"
        rows.append({"case": LEAST, "peak MB": memory[FLOOR]["peak MB"] + total / 1e6, "what": what})
    layers: dict[str, Row] = {name: {"case": name, "times": {}} for name in steps}
    for layer, name in family.first_layers(subject.base, targets).items() if "layer" in config.measures else ():
        if comparison.session.has_time(title := f"{group}, layer {layer}"):
            timed = comparison.time(title, layer_passes(steps, name), FLOOR, least=_SHORT)
            for case, row in timed.items():
                over = [ratios(row["times"], timed[FLOOR]["times"], phase)[1] for phase in ("forward", "backward")]
                layers[case][layer] = ", ".join(f"{ratio:.2f}" for ratio in over)
                layers[case]["times"][layer] = row["times"]
    tables = {group: rows}
    if len(layers[FLOOR]) > 2:
        tables[f"{group}: a layer alone, forward and backward over those of the frozen layer"] = list(layers.values())
    return tables


def _linear_probe(comparison: Comparison) -> list[Row]:
    """What a linear probe of so many epochs costs, in forward passes of the plain model over as many examples."""

    def make(case: Case, subject: Subject, workload: Workload) -> Any:
        return (TrainingStep if case.computed == KEPT else Inference)(case, subject, workload)

    calls = comparison.prepare("probe", probe_cases(comparison.subject.family), make)
    if len(calls) < 3:
        return []
    rows = comparison.time("probe", calls, "forward", least=_SHORT)
    forward, front, step = (row["times"] for row in rows.values())
    epochs = {WHOLE: [once + _EPOCHS * each for once, each in zip(front[WHOLE], step[WHOLE], strict=True)]}
    low, ratio, high = ratios(epochs, forward)
    row = {"case": f"{_EPOCHS}-epochs", "ms": 1000 * quartiles(epochs[WHOLE])[1], "times": epochs}
    return [*rows.values(), {**row, "/ forward": ratio, "+-": (high - low) / 2}]


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
    """Measures the floor, PEFT's LoRA and CapaBoost-LoRA at each point of the axes: a table for each axis.

    One thing grows at a time, from the configuration's own values. Raises what `measure_speed` raises.
    """
    points = axes(config)
    for point in (point for values in points.values() for point in values.values()):
        family_of(point)  # before the first hour is spent
    comparison, tables = Comparison(config, session), dict[str, list[Row]]()
    for axis, values in points.items():
        for value, point in values.items():
            rows = [{axis: str(value), **row} for row in _point(f"{axis} {value}", point, session)]
            tables.setdefault(axis, []).extend(rows)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    tables = {axis: rows for axis, rows in tables.items() if rows}
    return {**comparison.subject.about(comparison.clock.name), "tables": tables}


def _point(title: str, point: ScaleConfig, session: Session) -> Iterable[Row]:
    comparison = Comparison(point, session)
    steps = comparison.prepare(title, scale_cases(comparison.subject.family, point), TrainingStep)
    return comparison.time(title, steps, FLOOR).values() if FLOOR in steps else ()


def axes(config: ScaleConfig) -> dict[str, dict[Any, ScaleConfig]]:
    """By axis and value: the configuration in which nothing else has changed."""
    return {
        axis: {value: dataclasses.replace(config, **{name: value}) for value in getattr(config, values)}
        for axis, (name, values) in _AXES.items()
        if getattr(config, values)
    }
