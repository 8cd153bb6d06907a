"""Pictures of a study as SVG: accuracy against costs, groups, differences, learning curves, updates.

Their colours follow the page's, by day and by night, and their text stays text.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pandas as pd

from ...training.figures import STYLE, count_along, hold_span, make_logarithmic

# stand-ins that matplotlib can draw with; the page's style sheet says what they look like
_VARIABLES = {"#010203": "var(--ink)", "#010204": "var(--faint)", "#010205": "var(--line)", "#010206": "var(--paper)"}
_INK, _FAINT, _, _PAPER = _VARIABLES
COLOURS = 8  # of series, --c0 ... --c7
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "p", "<", ">")
_PANEL = (4.3, 3.1)  # inches: about the width of a telephone at 72 dots
_LABELLED = 9  # points with their names beside them
_LEAST_SPAN = 5.0  # points of accuracy that an axis shows at least: less is noise
_GAP = 8  # points from a marker to its name

Looks = Mapping[str, Mapping[str, Any]]  # by method its `series_style`


def series_style(index: int) -> dict[str, Any]:
    """Arguments of `Axes.plot` for the i-th method: colours come again with other dashes, markers after eleven."""
    return {
        "color": f"#0101{16 + index % COLOURS:02x}",  # a stand-in for a colour of the page
        "linestyle": _DASHES[index // COLOURS % len(_DASHES)],
        "marker": _MARKERS[index % len(_MARKERS)],
        "markersize": 4.5,
    }


def draw_pareto(points: pd.DataFrame, looks: Looks, *, label: str, log: bool) -> Any:
    """Accuracy over a cost by method, with its spread where that is known; a line joins those that no other one beats.

    Args:
        points: columns cost, accuracy and, if there is one, spread.
        log: a logarithmic axis, where the costs differ by a factor of ten.
    """
    axes = _new_axes(*_PANEL)
    front = pareto_front(points)
    axes.plot(front.cost, front.accuracy, color=_FAINT, linewidth=1, zorder=1)
    spreads = points.get("spread", pd.Series(math.nan, points.index)).fillna(0)
    for method, cost, score in points[["cost", "accuracy"]].itertuples():
        if spreads[method]:
            ends = [score - spreads[method], score + spreads[method]]
            axes.plot([cost, cost], ends, color=looks[method]["color"], linewidth=1.4, solid_capstyle="butt", zorder=2)
        axes.plot([cost], [score], zorder=3, **{**looks[method], "markersize": 6, "linestyle": "none"})
    if log and points.cost.max() > 10 * points.cost.min():
        axes.set_xscale("symlog", linthresh=points.cost[points.cost > 0].min(), linscale=0.4)
        axes.xaxis.minorticks_off()
        axes.margins(x=0.12)
    else:
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlim(0, 1.12 * points.cost.max() or 1)
    axes.xaxis.set_major_formatter(_short)
    axes.margins(y=0.16)
    axes.set(xlabel=label, ylabel="mean accuracy (%)")
    hold_span(axes, _LEAST_SPAN)
    _name_points(axes, points, [*front.index, *points.index.difference(front.index, sort=False)])
    return axes.figure


def _name_points(axes: Any, points: pd.DataFrame, order: Sequence[str]) -> None:
    """Writes the names of up to nine points beside them, where they touch no other point or name; else none."""
    axes.autoscale_view()
    place = axes.transData - axes.transAxes
    width, height = 72 * 0.82 * _PANEL[0], 72 * 0.75 * _PANEL[1]  # of the axes, about, in points
    at = {name: place.transform((points.cost[name], points.accuracy[name])) * (width, height) for name in order}
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in at.values()]
    sides = {"left": (_GAP, 0), "right": (-_GAP, 0), "center": (0, _GAP + 1), "below": (0, -_GAP - 1)}
    for name in order[:_LABELLED]:
        length = 4.6 * len(str(name))  # of letters of 8 points
        for side, (right, up) in sides.items():
            x, y = at[name][0] + right, at[name][1] + up
            left = x if side == "left" else x - length if side == "right" else x - length / 2
            box = (left, y - 5, left + length, y + 5)
            inside = box[0] >= 0 and box[2] <= width and box[1] >= 0 and box[3] <= height
            if inside and not any(box[0] < t[2] and t[0] < box[2] and box[1] < t[3] and t[1] < box[3] for t in taken):
                taken.append(box)
                axes.annotate(
                    name,
                    (points.cost[name], points.accuracy[name]),
                    xytext=(right, up),
                    textcoords="offset points",
                    ha="center" if side == "below" else side,
                    va="center",
                    fontsize=8,
                )
                break


def pareto_front(points: pd.DataFrame) -> pd.DataFrame:
    """The points that no other one beats in cost and accuracy, by cost."""
    points = points.sort_values(["cost", "accuracy"], ascending=[True, False], kind="stable")
    return points[points.accuracy > points.accuracy.cummax().shift(fill_value=-math.inf)]


def draw_radar(table: pd.DataFrame, looks: Looks) -> Any:
    """A closed line per method (row) over as many spokes as columns; the rings say at what accuracy they stand."""
    axes = _new_axes(4.3, 3.9, subplot_kw={"projection": "polar"})
    angles = [2 * math.pi * i / table.shape[1] for i in range(table.shape[1])]
    low, high = table.min(axis=None), table.max(axis=None)
    for method, *row in table.itertuples():
        axes.plot([*angles, angles[0]], [*row, row[0]], **{**looks[method], "linewidth": 1.3})
    start = max(0.0, 5 * math.floor((low - 0.15 * (high - low) - 1) / 5))
    axes.set_ylim(start, min(100.0, high + 0.05 * (high - start)))
    axes.set_xticks(angles, table.columns, fontsize=9)
    axes.set_theta_zero_location("N")
    axes.set_theta_direction(-1)
    axes.set_rlabel_position(180 / table.shape[1])
    axes.tick_params(axis="y", labelsize=7.5)
    axes.tick_params(axis="x", pad=8)
    return axes.figure


def draw_differences(lines: Sequence[tuple[str, float, float | None, float | None]], *, reference: str) -> Any:
    """A line per method: the difference to the reference and its interval, and where zero is."""
    axes = _new_axes(4.3, 0.9 + 0.24 * len(lines))
    for place, (_, mean, low, high) in enumerate(lines):
        if low is not None and high is not None:
            axes.plot([low, high], [place, place], color=_INK, linewidth=1.6, solid_capstyle="butt")
        filled = _PAPER if low is None else _INK
        axes.plot([mean], [place], color=_INK, marker="o", markersize=5, markerfacecolor=filled)
    axes.axvline(0, color=_FAINT, linewidth=1)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"points of accuracy over {reference}")
    return axes.figure


def draw_lines(
    lines: Mapping[str, pd.Series],
    looks: Looks,
    *,
    x: str,
    y: str,
    faint: Mapping[str, pd.Series] | None = None,
    log: bool = False,
    marked: bool = False,
    span: float | None = None,
) -> Any:
    """Lines over whole numbers, their index, by method.

    Args:
        faint: more lines, which stand behind.
        log: a logarithmic axis, where the values differ by a factor of two; of others it spans a quarter at least.
        span: what the vertical axis shows at least, of a hundred; 0 lets it begin at zero.
    """
    axes = _new_axes(*_PANEL)
    for method, line in (faint or {}).items():
        axes.plot(line, **{**looks[method], "marker": None, "linewidth": 1, "alpha": 0.55, "zorder": 1})
    for method, line in lines.items():
        marker = {} if marked or len(line) < 15 else {"marker": None}
        axes.plot(line, **{**looks[method], **marker})
    values = pd.concat([*lines.values(), *(faint or {}).values()])
    if log and 0 < 2 * values.min() <= values.max():
        make_logarithmic(axes)
    elif log:
        hold_span(axes, values.max() / 4, within=(0, math.inf))
    elif span:
        hold_span(axes, span)
    elif span == 0:
        axes.set_ylim(0, None)
    count_along(axes)
    axes.set(xlabel=x, ylabel=y)
    return axes.figure


def swatch(look: Mapping[str, Any], *, prefix: str) -> str:
    """A short piece of a line of this look with its marker, for legends."""
    axes = _new_axes(0.5, 0.18)
    axes.figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    axes.set_axis_off()
    axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], **look)
    axes.set(xlim=(0, 2), ylim=(-1, 1))
    text = to_svg(axes.figure, prefix=prefix, label="")
    return text.replace('role="img" aria-label=""', 'aria-hidden="true"', 1)


def styled() -> AbstractContextManager[None]:
    """Within the block matplotlib draws in the page's style."""
    from matplotlib import style

    return style.context([STYLE, "capaboost_vit.study.page.page"])  # page.mplstyle


def to_svg(figure: Any, *, prefix: str, label: str) -> str:
    """The figure, `styled`, as `<svg>` with a label for those who cannot see it; its ids begin with `prefix`."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", text, flags=re.DOTALL)
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text).groups()  # type: ignore[union-attr]
    body = text[text.index(">") + 1 :].replace("xlink:href=", "href=")
    # an id that nothing refers to goes; the others must differ from those of the page's other drawings
    named = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{prefix}-{match[1]}"' if match[1] in named else "", body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{prefix}-", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    body = re.sub(r"#0101([0-9a-f]{2})", lambda match: f"var(--c{int(match[1], 16) - 16})", body)
    body = re.sub(r"\n\s*", "\n", body)
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" viewBox="0 0 {width} {height}" style="--w:{width}">{body}'
    )


def _new_axes(width: float, height: float, **options: Any) -> Any:
    """Axes, made with `options` of subplots, that fill a figure of this size in inches, which needs no display."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained").subplots(**options)


def _short(value: float, _: Any = None) -> str:
    """A number of at least five digits with k, M or G, where that makes it shorter."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= max(size, 1e4) and value % (size / 100) == 0:
            return f"{value / size:g}{unit}"
    return f"{value:g}"
