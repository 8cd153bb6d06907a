"""A result as a table: plain text of at most 100 columns, which is Markdown too."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..io.atomic import write_text
from .capacity import capacity_table
from .columns import fenced
from .loop_tables import processes_table, vtab_table
from .machine import describe
from .picture import draw_result
from .timing import WHOLE

_WIDTH = 98
_LAYERS = 4  # side by side


def write_result(result: dict[str, Any], path: str | Path) -> list[Path]:
    """Writes the result as JSON to `path`, its table and, if matplotlib is there, its picture beside it; returns them.

    A result without a picture gets it from `capaboost bench draw`.
    """
    path = Path(path)
    write_text(path, json.dumps(result, indent=1) + "\n")
    write_text(path.with_suffix(".md"), table_of(result))
    picture = draw_result(result, path.with_suffix(".png"))
    return [path, path.with_suffix(".md"), *([picture] if picture else [])]


def table_of(result: dict[str, Any]) -> str:
    """The table of a result of any kind."""
    tables = {
        "speed": speed_table,
        "scale": scale_table,
        "vtab-time": vtab_table,
        "processes": processes_table,
        "capacity": capacity_table,
    }
    return tables[result["kind"]](result)


def speed_table(result: dict[str, Any]) -> str:
    """Steps, layers, inference and goals."""
    lines = ["# Speed", "", *_origin(result), ""]
    for name, group in result["groups"].items():
        lines += [f"## {name}", "", *fenced(_steps(group["cases"], result["items"])), ""]
        lines += [f"- {case}: {entry['what']}; {entry['trained']:,} trained" for case, entry in group["cases"].items()]
        if "stored_inputs" in group:
            stored = group["stored_inputs"]
            lines.append(
                f"- inputs of the adapted layers: {_mb(stored['all'])} MB, of which the floor does not keep "
                f"{_mb(stored['not_kept_by_floor'])} MB anyway"
            )
        lines.append("")
        if group["layers"]:
            lines += ["A layer alone, its forward and its backward over those of the frozen layer:", ""]
            layers = list(group["layers"].items())
            for i in range(0, len(layers), _LAYERS):
                lines += [*fenced(_layers(dict(layers[i : i + _LAYERS]))), ""]
    if result["inference"]:
        lines += ["## Inference", "", *fenced(_inference(result["inference"], result["items"])), ""]
    lines += ["## Goals", "", *fenced(_goals(result["goals"])), ""]
    return "\n".join([*lines, *_left_out(result)])


def scale_table(result: dict[str, Any]) -> str:
    """One table per thing that grows."""
    items = result["items"]
    lines = ["# Scale", "", *_origin(result), ""]
    for name, points in result["axes"].items():
        rows = [[name, "case", "step ms", "/ floor", "+-", "/ peft", f"{items}/s"]]
        for point in points:
            for case, entry in point["cases"].items():
                rows.append([str(point["value"]), case, *_timed(entry), _number(entry.get(f"{items}_per_second"), 1)])
        lines += [f"## {name}", "", *fenced(rows), ""]
    return "\n".join([*lines, *_left_out(result)])


def _origin(result: dict[str, Any]) -> list[str]:
    config = result["config"]
    precision = config["amp_dtype"] if config["amp"] else "float32"
    compiled = f", compiled ({config['compile_mode']})" if config["compile"] else ""
    about = (
        f"{config['model']}, {result['size']}, batch {config['batch_size']}, rank {config['rank']}, "
        f"{precision}{compiled} on {result['device']}. Clock: {result['clock']}. Times are medians of interleaved "
        "rounds; `/ floor` and `/ peft` are medians of the ratios of each round, `+-` is half the distance of their "
        "quartiles."
    )
    machine = textwrap.wrap(describe(result["machine"]), _WIDTH)
    return [f"    {result['command']}", "", *textwrap.wrap(about, _WIDTH), "", *machine]


def _steps(cases: dict[str, Any], items: str) -> list[list[str]]:
    titles = ["case", "step ms", "/ floor", "+-", "/ peft", "fwd ms", "bwd ms", f"{items}/s", "peak MB", "saved MB"]
    rows = [titles]
    for name, entry in cases.items():
        times, memory = entry.get("times", {}), entry.get("memory", {})
        phases = [_ms(times[phase]["median"]) if phase in times else "" for phase in ("forward", "backward")]
        sizes = [_mb(memory[size]) if memory else "" for size in ("peak", "saved")]
        rows.append([name, *_timed(entry), *phases, _number(entry.get(f"{items}_per_second"), 1), *sizes])
    return rows


def _timed(entry: dict[str, Any]) -> list[str]:
    """Milliseconds, ratio to the floor with its spread, ratio to PEFT."""
    if "times" not in entry:
        return ["", "", "", ""]
    whole = entry["times"][WHOLE]
    low, high = whole["ratio_quartiles"] or (0.0, 0.0)
    return [
        _ms(whole["median"]),
        _number(whole["ratio"], 3),
        _number((high - low) / 2, 3),
        _number(entry.get("over_peft"), 3),
    ]


def _layers(layers: dict[str, Any]) -> list[list[str]]:
    rows = [["case", *(title for name in layers for title in (name, ""))]]
    for case in next(iter(layers.values())):
        row = [case]
        for cases in layers.values():
            times = cases[case]["times"]
            row += [_number(times[phase]["ratio"], 2) for phase in ("forward", "backward")]
        rows.append(row)
    return rows


def _inference(cases: dict[str, Any], items: str) -> list[list[str]]:
    rows = [["case", "ms", "/ base", "+-", f"{items}/s"]]
    for name, entry in cases.items():
        rows.append([name, *_timed(entry)[:3], _number(entry.get(f"{items}_per_second"), 1)])
    return rows


def _goals(goals: Iterable[dict[str, Any]]) -> list[list[str]]:
    rows = [["goal", "bound", "value", ""]]
    rows += [[g["measure"], g["bound"], f"{g['value']:.3f}", "met" if g["met"] else "missed"] for g in goals]
    return rows if len(rows) > 1 else [["none: the goals are about other settings or cases"]]


def _left_out(result: dict[str, Any]) -> list[str]:
    if not result["left_out"]:
        return [f"{result['seconds']:.0f} s; nothing was left out.", ""]
    return [f"{result['seconds']:.0f} s; left out:", "", *(f"- {line}" for line in result["left_out"]), ""]


def _ms(seconds: float) -> str:
    return _number(1000 * seconds, 1 if seconds >= 0.01 else 3)


def _mb(size: int) -> str:
    return f"{size / 1e6:.1f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
