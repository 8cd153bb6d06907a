"""The tables of what is measured in the real training loop."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any

from .columns import fenced
from .machine import describe

_WIDTH = 98


def vtab_table(result: Mapping[str, Any]) -> str:
    """What was measured, and what it comes to."""
    config, time = result["config"], result["time"]
    what = f"{len(result['tasks'])} tasks of VTAB-1k, {config['epochs']} epochs of {config['train_images']:,} images"
    about = "Synthetic images in memory: nothing is decoded, nothing drawn; checkpoints are written."
    lines = ["# VTAB-1k, one seed", "", *_origin(result, f"{what}. {about}"), ""]
    if result["measured"]:
        lines += ["## Measured", "", *fenced(_measured(result["measured"], config)), ""]
    if result["full"]:
        lines += ["## Tasks (s)", "", *fenced(_tasks(result["full"])), ""]
    if time is not None:
        kind = "Run in full" if result["full"] else "Extrapolated, not run"
        lines += [f"## {kind}", "", *fenced(_parts(result)), ""]
        if time["quartiles"]:
            unit, length = _unit(time["total"])
            low, high = (value / length for value in time["quartiles"])
            lines += [f"With first and third quartiles in place of the medians: {low:,.1f} to {high:,.1f} {unit}.", ""]
    lines += [_goal(result), ""]
    return "\n".join([*lines, *_left_out(result)])


def processes_table(result: Mapping[str, Any]) -> str:
    """A row per number of processes and size of the update."""
    each = f"threads of each process: {result['threads']}" if result["threads"] else "each process has a GPU"
    about = (
        f"The training loop with DistributedDataParallel; {each}. Efficiency is images/s over n times those of one "
        "process: the median of the rounds' ratios, +- half the distance of their quartiles. CPU ms: of the first "
        "process for an update; reduced kB: gradients that are averaged over the processes in an update."
    )
    rows = [
        ["processes", "images, each", "in all", "update ms", "CPU ms", "images/s", "efficiency", "+-", "reduced kB"]
    ]
    for case in result["cases"]:
        low, high = case["efficiency_quartiles"]
        rows.append(
            [
                str(case["processes"]),
                f"{case['per_process']:g}",
                str(case["batch_size"]),
                f"{1000 * case['update']['median']:.1f}",
                f"{1000 * case['cpu_seconds']:.1f}",
                f"{case['images_per_second']:.1f}",
                f"{case['efficiency']:.3f}",
                f"{(high - low) / 2:.3f}",
                f"{case['reduced_bytes'] / 1000:,.1f}",
            ]
        )
    return "\n".join(["# Processes", "", *_origin(result, about), "", *fenced(rows), "", *_left_out(result)])


def _origin(result: Mapping[str, Any], about: str) -> list[str]:
    config = result["config"]
    precision = config["amp_dtype"] if config["amp"] else "float32"
    compiled = f", compiled ({config['compile_mode']})" if config["compile"] else ""
    parts = f", gradients of {config['grad_accum_steps']} parts added up" if config["grad_accum_steps"] > 1 else ""
    size = f", {config['img_size']} px" if config["img_size"] else ""
    setting = f"{config['model']}{size}, {precision}{compiled}{parts}, on {result['device']}. Clock: {result['clock']}."
    machine = textwrap.wrap(describe(result["machine"]), _WIDTH)
    return [f"    {result['command']}", "", *textwrap.wrap(f"{setting} {about}", _WIDTH), "", *machine]


def _measured(measured: Mapping[str, Any], config: Mapping[str, Any]) -> list[list[str]]:
    rows = [["", "median ms", "quartiles ms", "times", "images/s"]]
    kinds = [(f"update of {size} images", int(size), entry) for size, entry in measured["updates"].items()]
    size = config["validation_batch_size"]
    kinds += [(f"test batch of {size} images", size, measured["test_batch"]), ("checkpoint", 0, measured["checkpoint"])]
    for name, images, entry in kinds:
        low, high = (f"{1000 * value:.1f}" for value in entry["quartiles"])
        speed = f"{images / entry['median']:.1f}" if images else ""
        rows.append([name, f"{1000 * entry['median']:.1f}", f"{low} to {high}", str(len(entry["times"])), speed])
    for i, start in enumerate(measured["starts"]):
        rows.append([f"building model {i + 1}", f"{1000 * start['building']:.0f}", "", "1", ""])
        rows.append(["starting with it, beyond the medians", f"{1000 * start['starting']:.0f}", "", "1", ""])
    return rows


def _parts(result: Mapping[str, Any]) -> list[list[str]]:
    config, time, tasks = result["config"], result["time"], result["tasks"]
    updates = len(tasks) * config["epochs"] * -(-config["train_images"] // config["batch_size"])
    counts = {
        "training": f"{updates:,} updates",
        "test": f"{sum(task['test_images'] for task in tasks):,} images",
        "checkpoints": f"{len(tasks) * config['epochs']:,}",
        "building": f"{len(tasks)} models",
        "starting": "compilation, first reading, warm-up" if config["compile"] else "first reading, warm-up",
    }
    unit, length = _unit(time["total"])
    rows = [["", "", unit, "share"]]
    for name, seconds in (*time["parts"].items(), ("all", time["total"])):
        rows.append([name, counts.get(name, ""), f"{seconds / length:,.2f}", f"{100 * seconds / time['total']:.1f} %"])
    return rows


def _unit(seconds: float) -> tuple[str, float]:
    return ("hours", 3600.0) if seconds >= 36000 else ("minutes", 60.0)


def _tasks(tasks: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    names = ("training", "test", "checkpoints", "building", "total")
    rows = [["task", "updates", "test images", *names]]
    for task, found in tasks.items():
        seconds = [f"{found[name]:.1f}" for name in names]
        rows.append([task, f"{found['updates']:,}", f"{found['test_images']:,}", *seconds])
    return rows


def _goal(result: Mapping[str, Any]) -> str:
    for goal in result["goals"]:
        return f"Goal: {goal['measure']} {goal['bound']}: {goal['value']:.2f}, {'met' if goal['met'] else 'missed'}."
    if result["device"] != "cuda":
        return "The goal of ten minutes is one for a GPU; this is a CPU."
    return "The goal of ten minutes is for all tasks with ViT-B/16, 224 px, batch 64: this is another setting."


def _left_out(result: Mapping[str, Any]) -> list[str]:
    if not result["left_out"]:
        return [f"{result['seconds']:.0f} s; nothing was left out.", ""]
    return [f"{result['seconds']:.0f} s; left out:", "", *(f"- {line}" for line in result["left_out"]), ""]
