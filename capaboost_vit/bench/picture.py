"""A result as a picture, drawn from its tables."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..training.figures import new_figure, save_figure
from .capacity import TARGETS, capacity_tables
from .config import FILES, GROUPS
from .speed import LEAST

_PHASES = ("forward", "backward", "update")
_MEMORY = {"peak MB": "peak", "saved MB": "saved activations"}
_BLUES = ["#9ecae1", "#3182bd", "#08306b"]
_COLOURS = {"floor": "#888888", "peft": "#d95f02", "capaboost": "#1b6ca8"}
# above the panel, where no bar is
_ABOVE: dict[str, Any] = {"fontsize": 8, "loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3, "frameon": False}


def draw_result(result: dict[str, Any], path: str | Path) -> Path | None:
    """Draws a result as PNG; returns the path, or None where a table says all, or there is nothing to draw."""
    kinds = {"speed": _speed, "scale": _scale, "capacity": _capacity}
    figure = kinds[result["kind"]](result) if result["kind"] in kinds else None
    if figure is None:
        return None
    path = Path(path)
    save_figure(figure, path)
    return path


def _speed(result: dict[str, Any]) -> Figure | None:
    """A row per group: the step in units of the floor, and its memory."""
    groups = {name: pd.DataFrame(rows) for name, rows in result["tables"].items() if name in (*GROUPS, FILES)}
    if not groups:
        return None
    heights = [1.2 + len(frame) for frame in groups.values()]
    figure = new_figure(11, 0.9 + 0.3 * sum(heights), setting(result), fontsize=10)
    panels = figure.subplots(len(groups), 2, squeeze=False, height_ratios=heights, width_ratios=[3, 2])
    for (steps, memory), (name, frame) in zip(panels, groups.items(), strict=True):
        numbers = frame.set_index("case")
        cases = numbers.drop(index=LEAST, errors="ignore")
        if "ms" in cases:
            phases = pd.DataFrame({p: cases["times"].map(lambda times: median(times[p])) for p in _PHASES})  # noqa: B023
            # scaled so that the bar is as long as the median ratio, which is the steadier number
            _bars(steps, phases.mul(cases["/ floor"] / phases.sum(axis=1), axis=0), color=_BLUES, stacked=True)
            steps.errorbar(cases["/ floor"], range(len(cases)), xerr=cases["+-"], fmt="none", ecolor="black")
            _write(steps, cases["/ floor"] + cases["+-"], [f" {ratio:.2f}" for ratio in cases["/ floor"]])
            steps.axvline(1, color="black", linewidth=0.8, linestyle=":")
        if "peak MB" in cases:
            _bars(memory, cases[list(_MEMORY)].rename(columns=_MEMORY), color=["#c7c7c7", "#74a57f"])
            _write(memory, cases["peak MB"], [f" {peak:.0f}" for peak in cases["peak MB"]])
            if LEAST in numbers.index:
                least = numbers.loc[LEAST, "peak MB"]
                memory.axvline(least, color="black", linewidth=0.8, linestyle=":", label="floor + stored inputs")
        for axes in (steps, memory):
            axes.set_axis_on() if axes.containers else axes.set_axis_off()
            axes.legend(**_ABOVE) if axes.containers else None
        steps.set_title(name, loc="left", fontsize=10)
    panels[-1, 0].set_xlabel("training step / floor (whiskers: half the distance of the quartiles)")
    panels[-1, 1].set_xlabel("memory of a step (MB)")
    return figure


def _bars(axes: Any, frame: pd.DataFrame, **look: Any) -> None:
    """A row of bars for each case, the first at the top."""
    frame.plot.barh(ax=axes, width=0.75, fontsize=8, xlabel="", ylabel="", legend=False, **look)
    axes.spines[["top", "right"]].set_visible(False)
    axes.invert_yaxis()


def _write(axes: Any, ends: pd.Series[float], texts: list[str]) -> None:
    """A text behind the end of each row."""
    for i, (end, text) in enumerate(zip(ends, texts, strict=True)):
        axes.text(end, i, text, va="center", fontsize=8)
    axes.set_xlim(0, 1.15 * ends.max())


def _scale(result: dict[str, Any]) -> Figure | None:
    """A column per thing that grows: the step in units of the floor, and images or tokens per second."""
    tables = {axis: pd.DataFrame(rows) for axis, rows in result["tables"].items()}
    if not tables:
        return None
    figure = new_figure(2.9 * len(tables) + 0.6, 5.4, setting(result), fontsize=10)
    panels = figure.subplots(2, len(tables), squeeze=False, sharey="row")
    for (ratios, speeds), (axis, frame) in zip(panels.T, tables.items(), strict=True):
        frame[axis] = frame[axis].str.removeprefix("vit_").str.partition("_patch")[0]
        points = frame.pivot(index=axis, columns="case").reindex(frame[axis].unique())
        look = {"color": _COLOURS, "marker": "o", "markersize": 3, "grid": True, "legend": False, "fontsize": 8}
        points["/ floor"].plot(ax=ratios, yerr=points["+-"], xlabel="", ylabel="training step / floor", **look)
        speed = f"{result['items']}/s"
        points[speed].plot(ax=speeds, logy=True, ylabel=speed, **look)
        speeds.yaxis.set_major_formatter("{x:g}")
        speeds.yaxis.set_minor_formatter("{x:g}")
        for axes in (ratios, speeds):
            axes.set_xticks(range(len(points)), points.index)
    panels[0, 0].legend(fontsize=8)
    return figure


def _capacity(result: dict[str, Any]) -> Figure:
    """Two panels, the full update and Gaussian matrices: what each kind holds, over the rank."""
    held_by = f"Held by low-rank updates, mean of {len(result['targets'])} weights"
    figure = new_figure(9.5, 4.4, f"{held_by}; all of one r store as much, but for the larger rank", fontsize=10)
    tables = capacity_tables(result)
    for axes, title in zip(figure.subplots(1, 2), TARGETS.values(), strict=True):
        held = pd.DataFrame(tables[title]).set_index("").T
        held.plot(ax=axes, style=["o-", "s--", "^--", "v--", "D--", "*--"], grid=True, title=title)
        axes.set_xticks(range(len(held)), held.index)
        axes.set(ylim=(0, None), ylabel="squared norm held (%)")
        axes.legend(fontsize=8)
    return figure


def setting(result: dict[str, Any]) -> str:
    """Model, inputs, precision and device in words."""
    config, machine = result["config"], result["machine"]
    precision = config["amp_dtype"] if config["amp"] else "float32"
    compiled = f", compiled ({config['compile_mode']})" if config["compile"] else ""
    cpu = f"{machine['cpu']}, {config['threads']} thread(s)"
    where = machine["gpu"]["name"] if result["device"] == "cuda" else cpu
    what = f"{config['model']}, {result['size']}, batch {config['batch_size']}, rank {config['rank']}"
    return f"{what}, {precision}{compiled}; {where}"
