"""Pictures of a study: accuracy against costs, groups, differences, learning curves, updates."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from .svg import FAINT, INK, PAPER, new_axes, series_style

_PANEL = (4.3, 3.1)  # inches: about the width of a telephone at 72 dots
_LABELLED = 9  # points with their names beside them


def draw_pareto(points: Mapping[int, tuple[str, float, float]], *, label: str, log: bool) -> Any:
    """Accuracy over a cost; a line joins the methods that no other one beats in both.

    Args:
        points: by place in the legend, name, cost and accuracy.
    """
    axes = new_axes(*_PANEL)
    front = pareto_front({index: (cost, score) for index, (_, cost, score) in points.items()})
    steps = [(points[i][1], points[i][2]) for i in front]
    axes.plot([x for x, _ in steps], [y for _, y in steps], color=FAINT, linewidth=1, zorder=1)
    for index, (_, cost, score) in points.items():
        axes.plot([cost], [score], zorder=3, **{**series_style(index), "markersize": 6, "linestyle": "none"})
    costs = sorted({cost for _, cost, _ in points.values()})
    if log and costs[-1] > 10 * costs[0]:
        axes.set_xscale("symlog", linthresh=next(cost for cost in costs if cost > 0), linscale=0.4)
        axes.xaxis.minorticks_off()
    elif len(costs) == 1:
        axes.set_xticks(costs)
    else:
        axes.locator_params(axis="x", nbins=6)
    axes.xaxis.set_major_formatter(_short)
    axes.margins(x=0.12, y=0.16)
    axes.set(xlabel=label, ylabel="mean accuracy (%)")
    axes.autoscale_view()
    for index in front[:_LABELLED]:
        name, cost, score = points[index]
        across = axes.transAxes.inverted().transform(axes.transData.transform((cost, score)))[0]
        side = "left" if across < 0.35 else "right" if across > 0.65 else "center"
        offset = (7, -9) if side == "left" else (0, 7)  # the line goes up and to the right
        axes.annotate(name, (cost, score), xytext=offset, textcoords="offset points", ha=side, fontsize=8)
    return axes.figure


def pareto_front(points: Mapping[int, tuple[float, float]]) -> list[int]:
    """The points that no other one beats in cost and score, by cost."""
    front: list[int] = []
    for index in sorted(points, key=lambda i: (points[i][0], -points[i][1])):
        if not front or points[index][1] > points[front[-1]][1]:
            front.append(index)
    return front


def draw_radar(values: Mapping[int, Sequence[float]], axes_names: Sequence[str]) -> Any:
    """A closed line per method over as many spokes; the rings say at what accuracy they stand."""
    axes = new_axes(4.3, 3.9, subplot_kw={"projection": "polar"})
    angles = [2 * math.pi * i / len(axes_names) for i in range(len(axes_names))]
    low = min(min(row) for row in values.values())
    high = max(max(row) for row in values.values())
    for index, row in values.items():
        axes.plot([*angles, angles[0]], [*row, row[0]], **{**series_style(index), "linewidth": 1.3})
    start = max(0.0, 5 * math.floor((low - 0.15 * (high - low) - 1) / 5))
    axes.set_ylim(start, min(100.0, high + 0.05 * (high - start)))
    axes.set_xticks(angles, axes_names, fontsize=9)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_rlabel_position(180 / len(axes_names))
    axes.tick_params(axis="y", labelsize=7.5)
    axes.tick_params(axis="x", pad=8)
    return axes.figure


def draw_differences(lines: Sequence[tuple[str, float, float | None, float | None]], *, reference: str) -> Any:
    """A line per method: the difference to the reference and its interval, and where zero is."""
    axes = new_axes(4.3, 0.9 + 0.24 * len(lines))
    for place, (_, mean, low, high) in enumerate(lines):
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=INK, linewidth=1.6, solid_capstyle="butt")
        axes.plot([mean], [place], color=INK, marker="o", markersize=5, markerfacecolor=INK, markeredgecolor=PAPER)
    axes.axvline(0, color=FAINT, linewidth=1)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"points of accuracy over {reference}")
    return axes.figure


def draw_lines(lines: Mapping[int, pd.Series], *, x: str, y: str, log: bool = False, marked: bool = False) -> Any:
    """Lines over whole numbers, their index, by place in the legend."""
    from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

    axes = new_axes(*_PANEL)
    for index, line in lines.items():
        look = series_style(index)
        axes.plot(line, **(look if marked or len(line) < 15 else {**look, "marker": None}))
    if log and all((line > 0).all() for line in lines.values()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel=x, ylabel=y)
    return axes.figure


def _short(value: float, _: Any = None) -> str:
    """A number of at least five digits with k, M or G, where that makes it shorter."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e4) and value % (size / 100) == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
