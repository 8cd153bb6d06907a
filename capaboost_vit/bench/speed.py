"""`capaboost bench speed`: what a training step costs, in groups of cases that are timed in turn."""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch

from .cases import FLOOR, Answer, Case, TrainingStep, group_of_cases, inference_cases
from .config import SETS, SpeedConfig, Workload
from .goals import goals
from .layer import layer_passes
from .machine import import_seconds, machine
from .memory import memory_of, stored_inputs
from .models import Batch, make_batch
from .timing import WHOLE, Budget, Timed, Times, clock_for, interleave, timing

Say = Callable[[str], None]

_LEAST = 0.1  # seconds that one timing lasts at least on a GPU; on a CPU steps are long enough
_LEAST_OF_LAYER = 0.02
_MORE_ROUNDS = 4  # of inference, for three short cases and a goal of one per cent


def measure_speed(config: SpeedConfig, *, command: str, say: Say, budget: Budget | None = None) -> dict[str, Any]:
    """Runs what the configuration names; returns what goes into the result file.

    Args:
        command: what was typed, for the record.
        say: told what is going on.
        budget: of several measurements together, beside the configuration's own.

    Raises:
        ValueError: what `make_batch` refuses.
    """
    start = time.monotonic()
    budget = Budget(config.budget, within=budget)
    batch = prepare(config)
    result = {
        **head_of("speed", config, batch, command),
        "groups": {},
        "inference": None,
        "import_seconds": import_seconds() if "import" in config.measures else None,
        "left_out": [],
    }
    for group in config.groups if {"step", "memory", "layer"} & {*config.measures} else ():
        result["groups"][group] = _measure_group(config, group, batch, budget, say, result["left_out"])
    if "inference" in config.measures:
        cases = inference_cases(batch.family, "all-linears", config.rank)
        answers, _ = warm_up(cases, Answer, batch, config, budget, say, result["left_out"], "inference")
        if "base" in answers:
            more = dataclasses.replace(config, repetitions=_MORE_ROUNDS * config.repetitions)
            times = measure(answers, more, batch, budget, say, "inference")
            result["inference"] = summary_of(times, "base", batch)
    result["goals"] = [dataclasses.asdict(goal) for goal in goals(result)]
    result["seconds"] = time.monotonic() - start
    return result


def prepare(workload: Workload) -> Batch:
    """Sets the number of threads, and makes the batch."""
    torch.set_num_threads(workload.threads)
    return make_batch(workload)


def head_of(kind: str, config: Workload, batch: Batch, command: str) -> dict[str, Any]:
    """What a result says of how it was measured."""
    return {
        "kind": kind,
        "command": command,
        "config": dataclasses.asdict(config),
        "device": batch.device.type,
        "items": batch.family.items,
        "size": batch.size,
        "clock": clock_for(batch.device, config.threads).name,
        "machine": machine(),
    }


def _measure_group(
    config: SpeedConfig, group: str, batch: Batch, budget: Budget, say: Say, left_out: list[str]
) -> dict[str, Any]:
    family = batch.family
    cases = chosen(group_of_cases(family, group, config.rank), config.cases)
    targets = family.targets.get(group, ())
    found: dict[str, Any] = {"targets": list(targets), "cases": {}, "layers": {}}
    steps, memory = warm_up(cases, TrainingStep, batch, config, budget, say, left_out, group)
    if FLOOR not in steps:
        return found
    if "memory" in config.measures and group in SETS:
        total, beyond = stored_inputs(steps[FLOOR], family.places(batch.base, targets))
        found["stored_inputs"] = {"all": total, "not_kept_by_floor": beyond}
    timed = {}
    if "step" in config.measures:
        timed = summary_of(measure(steps, config, batch, budget, say, group), FLOOR, batch)
    for case in cases:
        if case.name in steps:
            trained = sum(p.numel() for p in steps[case.name].trained)
            found["cases"][case.name] = {"what": case.what, "trained": trained, **timed.get(case.name, {})}
            if case.name in memory:
                found["cases"][case.name]["memory"] = memory[case.name]
    if "layer" in config.measures:
        for layer, name in family.first_layers(batch.base, targets).items():
            title = f"{group}, layer {layer}"
            if budget.left() <= 0:
                left_out.append(f"{title}: no time left")
                continue
            times = measure(layer_passes(steps, name), config, batch, budget, say, title, layer=True)
            found["layers"][layer] = summary_of(times, FLOOR)
    return found


def chosen(cases: list[Case], patterns: Sequence[str]) -> list[Case]:
    """The floor, and the cases that the patterns match, in the order of the patterns: the first get the time first."""
    wanted = [FLOOR, *patterns]
    matched = {case.name: [i for i, p in enumerate(wanted) if fnmatchcase(case.name, p)] for case in cases}
    return sorted((case for case in cases if matched[case.name]), key=lambda case: matched[case.name][0])


def warm_up(
    cases: list[Case],
    make: Callable[[Case, Batch, Workload], Any],
    batch: Batch,
    workload: Workload,
    budget: Budget,
    say: Say,
    left_out: list[str],
    title: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Builds the cases and calls each twice, as long as the budget leaves time for the rounds of those that there are.

    A case whose package is missing or that does not fit into the memory is left out, with its reason.

    Returns:
        The cases that are ready, and the memory of each training step where the configuration asks for it.
    """
    ready: dict[str, Any] = {}
    memory: dict[str, Any] = {}
    cost = 0.0
    for case in cases:
        if budget.left() <= cost:
            left_out.append(f"{title}, {case.name}: no time left")
            continue
        say(f"{title}: preparing {case.name}")
        try:
            call = make(case, batch, workload)
            call()
            seconds = _wall(call, batch)
            if "memory" in getattr(workload, "measures", ()) and isinstance(call, TrainingStep):
                memory[case.name] = dataclasses.asdict(memory_of(call))
        except (ImportError, RuntimeError) as error:
            left_out.append(f"{title}, {case.name}: {str(error).strip().splitlines()[0]}")
            continue
        ready[case.name] = call
        cost += (workload.repetitions + workload.warmup) * max(seconds, least(batch))
    return ready, memory


def measure(
    calls: dict[str, Any], workload: Workload, batch: Batch, budget: Budget, say: Say, title: str, layer: bool = False
) -> Times:
    """Times the calls in turn, as the workload says."""
    timed: dict[str, Timed] = calls
    times = interleave(
        timed,
        clock=clock_for(batch.device, workload.threads),
        rounds=workload.repetitions,
        warmup=workload.warmup,
        least=_LEAST_OF_LAYER if layer else least(batch),
        seed=workload.seed,
        go_on=lambda: budget.left() > 0,
        progress=lambda done: say(f"{title}: round {done} of {workload.repetitions}"),
    )
    gc.collect()
    return times


def summary_of(times: Times, reference: str, batch: Batch | None = None) -> dict[str, dict[str, Any]]:
    """By case: the timing of each phase over the reference's, and over PEFT's where there is one.

    With a batch, what goes through a case in each call, also images or tokens per second.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name, phases in times.items():
        entry: dict[str, Any] = {"times": {}}
        for phase, seconds in phases.items():
            other = times[reference][phase]
            over = other if min(other) > 0 and phase != "update" else None  # the floor updates nothing
            entry["times"][phase] = dataclasses.asdict(timing(seconds, over))
        whole = phases[WHOLE]
        if "peft" in times and min(times["peft"][WHOLE]) > 0:
            entry["over_peft"] = timing(whole, times["peft"][WHOLE]).ratio
        if batch is not None and min(whole) > 0:
            entry[f"{batch.family.items}_per_second"] = batch.items / entry["times"][WHOLE]["median"]
        summary[name] = entry
    return summary


def least(batch: Batch) -> float:
    """Seconds that one timing of a step lasts at least on this device."""
    return _LEAST if batch.device.type == "cuda" else 0.0


def _wall(call: Callable[[], object], batch: Batch) -> float:
    """Wall time of one call, for the budget."""
    clock = clock_for(batch.device, threads=0)
    clock.settle()
    start = clock.mark()
    call()
    return clock.between(start, clock.mark())
