"""A measurement from its configuration to its result, and the result as files: JSON, tables, and a picture."""

from __future__ import annotations

import dataclasses
import json
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..io.atomic import write_text
from ..training.machine import hardware
from .capacity import measure_capacity
from .picture import draw_result, setting
from .processes import measure_processes
from .speed import measure_scale, measure_speed
from .timing import Session, ratios

_MEASUREMENTS: dict[str, Callable[[Any, Session], dict[str, Any]]] = {
    "speed": measure_speed,
    "scale": measure_scale,
    "processes": measure_processes,
    "capacity": measure_capacity,
}
_WIDTH = 98  # columns of a text
_STEPS = (
    "Times are medians of interleaved rounds; `/ floor` and `/ peft` are medians of the ratios of each round, `+-` is "
    "half the distance of their quartiles."
)
_ABOUT = {
    "speed": _STEPS,
    "scale": _STEPS,
    "processes": "A training step of CapaBoost-LoRA in DistributedDataParallel. Efficiency is examples/s over n times "
    "those of one process: the median of the rounds' ratios, +- half the distance of their quartiles. CPU ms: of the "
    "first process for an update; reduced kB: gradients that are averaged over the processes in an update.",
    "capacity": "What low-rank updates hold of each update of a full fine-tuning, per cent of the squared norm.",
}


def measure(
    kind: str, config: Any, *, command: str = "", say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Measures what a configuration of `config.py` describes; returns the result, JSON values only.

    Every kind has `kind`, `command`, `config`, `tables` (rows by title), `goals` ({measure, bound, value, met} each),
    `machine`, `left_out` (what was not measured, and why) and `seconds`; on a device also `device`, `items` (what is
    counted), `size` (of one) and `clock`.

    Raises:
        ValueError: a model, device or option that does not exist or fit. ChildProcessError: see `measure_processes`.
    """
    session = Session(getattr(config, "budget", None), say)
    head = {"kind": kind, "command": command, "config": dataclasses.asdict(config)}
    measured = _MEASUREMENTS[kind](config, session)
    measured["goals"] = judge(getattr(config, "goals", {}), measured["tables"])
    seconds = time.monotonic() - session.start
    return {
        **head,
        **measured,
        "machine": hardware("transformers", "peft", "triton", "numpy"),
        "left_out": session.left_out,
        "seconds": seconds,
    }


def judge(goals: Mapping[str, Any], tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Each goal with its bound in words, its value and whether that, not rounded, is `met`; None: not measured."""
    judged = []
    for name, bound in goals.items():
        low, high = bound if isinstance(bound, list | tuple) else (float("-inf"), bound)
        bound_text = f"{low:g} to {high:g}" if isinstance(bound, list | tuple) else f"<= {high:g}"
        value = _value(name, tables)
        met = None if value is None else bool(low <= value <= high)
        judged.append({"measure": name, "bound": bound_text, "value": value, "met": met})
    return judged


def _value(name: str, tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> float | None:
    """What the goal is about: seconds, or the first case over the second; None unless all of it was measured."""
    measure, *operands = name.split()
    if measure == "import":
        return next((row["s"] for row in tables.get("import", ())), None)
    title = operands[0] if measure in ("step", "memory") else measure  # those two are of a group
    rows = {row["case"]: row for row in tables.get(title, ())}
    case, other = (rows.get(operands[place], {}) for place in (-3, -1))
    if measure == "memory":
        return case["peak MB"] / other["peak MB"] if "peak MB" in case and "peak MB" in other else None
    return ratios(case["times"], other["times"])[1] if "times" in case and "times" in other else None


def write_result(result: dict[str, Any], path: str | Path) -> list[Path]:
    """Writes the result as JSON to `path`, its tables and its picture, if it has one, beside it; returns the paths."""
    path = Path(path)
    write_text(path, json.dumps(result, indent=1) + "\n")
    write_text(path.with_suffix(".md"), table_of(result))
    picture = draw_result(result, path.with_suffix(".png"))
    return [path, path.with_suffix(".md"), *([picture] if picture else [])]


def table_of(result: dict[str, Any]) -> str:
    """A result of any kind in Markdown that is plain text too: how it was measured, tables, goals, what is left out."""
    where = f"{setting(result)}. Clock: {result['clock']}. " if "device" in result else ""
    about = textwrap.wrap(where + _ABOUT[result["kind"]], _WIDTH)
    machine = textwrap.wrap(_machine_line(result["machine"]), _WIDTH)
    lines = [f"# {result['kind'].capitalize()}", "", f"    {result['command']}", "", *about, "", *machine, ""]
    verdicts = {True: "met", False: "missed", None: "not measured"}
    goals = [
        {"goal": g["measure"], "bound": g["bound"], "value": g["value"], "": verdicts[g["met"]]}
        for g in result["goals"]
    ]
    for title, rows in {**result["tables"], "goals": goals}.items():
        if rows:
            lines += [f"## {title}", "", "```", *_lines(rows), "```", ""]
        if rows and "what" in rows[0]:
            lines += [*(f"- {row['case']}: {row['what']}" for row in rows), ""]
    left_out = [f"- {line}" for line in result["left_out"]]
    end = ["left out:", "", *left_out] if left_out else ["nothing was left out."]
    return "\n".join([*lines, f"{result['seconds']:.0f} s; {end[0]}", *end[1:], ""])


def _lines(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table's lines: words flush left, numbers flush right; of what is nested nothing."""
    frame = pd.DataFrame(rows, dtype=object).drop(columns=["times", "what", "resident MB"], errors="ignore")
    columns = []
    for name in frame:
        cells = [name, *_cells(frame[name])]
        width = max(map(len, cells))
        left = any(isinstance(value, str) for value in frame[name])
        columns.append([cell.ljust(width) if left else cell.rjust(width) for cell in cells])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def _cells(column: pd.Series[Any]) -> list[str]:
    """Whole numbers as they are, others with up to three decimals, the same for all; nothing for None and NaN."""
    largest = max((abs(value) for value in column if isinstance(value, float)), default=0.0)
    digits = 3 if largest < 10 else 2 if largest < 100 else 1
    texts = {float: f",.{digits}f", int: ","}
    return ["" if pd.isna(value) else format(value, texts.get(type(value), "")) for value in column]


def _machine_line(machine: dict[str, Any]) -> str:
    """One line for the reader of a table."""
    parts = [machine["gpu"]["name"]] if machine["gpu"] else []
    load = f", load {machine['load'][0]:g}" if machine["load"] else ""
    parts.append(f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads{load}")
    return "; ".join([*parts, *(f"{name} {number}" for name, number in machine["versions"].items() if number)])
