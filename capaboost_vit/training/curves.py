"""Learning curves of one run, and of several in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .figures import FAINT, INK, PAPER, count_along, hold_span, in_style, make_logarithmic, new_figure
from .metrics import NOT_IN_PER_CENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Rows = Sequence[Mapping[str, Any]]

_TRAIN, _VAL, _TEST = "#14599b", "#c8500a", "#1b7f4d"
_LEAST_SPAN = 5.0  # per cent that the axis of a score shows at least
_MARKED = 25  # epochs; the points of more would touch
_LINE = 10  # points from one label to the next, in the height before the layout is made


@in_style
def draw_learning_curve(
    rows: Rows,
    *,
    title: str,
    score: str = "accuracy",
    rates: Sequence[tuple[float, float]] = (),
    best_epoch: int | None = None,
    test: float | None = None,
) -> Figure:
    """Loss, score and learning rate of one run over its epochs, one below the other.

    Args:
        rows: of summary.csv: `epoch`, `train_loss`, and where they are there `val_loss`, `train_accuracy`, `val_SCORE`.
        score: its name.
        rates: (epochs done, learning rate).
        best_epoch: with the best score on val.
        test: the score on the test split, of the model that was kept.
    """
    losses = {"train": _points(rows, "train_loss"), "val": _points(rows, "val_loss")}
    scores = {"train": _points(rows, f"train_{score}"), "val": _points(rows, f"val_{score}")}
    losses, scores = ({split: line for split, line in lines.items() if line} for lines in (losses, scores))
    name, unit = score.replace("_", " "), "" if score in NOT_IN_PER_CENT else " %"
    said = []
    if best_epoch is not None:
        said.append(f"best epoch on val: {best_epoch} of {rows[-1]['epoch']}")
    if test is not None:
        said.append(f"test {name}: {test:.2f}{unit}")
    heights = [3.0] + [3.0] * bool(scores or test is not None) + [1.1] * bool(rates)
    figure = new_figure(8, 1.2 + 0.85 * sum(heights), title, "   ".join(said))
    panels = list(figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0])
    panels[-1].set_xlabel("epoch")
    count_along(panels[-1])
    last = rows[-1]["epoch"] if rows else 1
    panels[-1].set_xlim(-0.015 * last if rates else 1 - 0.015 * last - 0.5 * (last == 1), last * 1.015)
    axes = panels.pop(0)
    axes.set_ylabel("loss")
    values = [y for line in losses.values() for _, y in line]
    ends = _draw(axes, losses, best_epoch)
    if values and min(values) > 0 and max(values) > 5 * min(values):
        make_logarithmic(axes)
    _label(axes, ends)
    if scores or test is not None:
        axes = panels.pop(0)
        axes.set_ylabel(f"{name} (%)" if unit else name)
        ends = _draw(axes, scores, best_epoch)
        if test is not None:
            axes.axhline(test, color=_TEST, linewidth=1.2, linestyle=(0, (4, 2)))
            ends.append((f"test {test:.2f}", test, _TEST))
        if unit:
            hold_span(axes, _LEAST_SPAN)
        _label(axes, ends)
    if rates:
        axes = panels.pop(0)
        axes.plot(*zip(*rates, strict=True), color=INK, linewidth=1.3)
        axes.set(ylabel="learning\nrate", ylim=(0, None))
        axes.locator_params(axis="y", nbins=2)
        axes.yaxis.set_major_formatter("{x:g}")
    figure.align_ylabels()
    return figure


@in_style
def draw_curves(runs: Mapping[str, Rows], *, title: str, score: str = "accuracy") -> Figure:
    """Learning curves of several runs: training loss, and a score on val, or accuracy in training without val.

    Args:
        runs: rows of summary.csv (`epoch`, `train_loss`, `train_accuracy`, `val_SCORE`) by run name.
        score: its name.
    """
    figure = new_figure(9, 4.1, title)
    loss, accuracy = figure.subplots(1, 2)
    validated = any(row.get(f"val_{score}") is not None for rows in runs.values() for row in rows)
    metric = f"val_{score}" if validated else "train_accuracy"
    for name, rows in runs.items():
        for axes, column in ((loss, "train_loss"), (accuracy, metric)):
            points = _points(rows, column)
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=_marker(points))
    loss.set(xlabel="epoch", ylabel="training loss")
    if all(row["train_loss"] is None or row["train_loss"] > 0 for rows in runs.values() for row in rows):
        make_logarithmic(loss)
    unit = "" if validated and score in NOT_IN_PER_CENT else " (%)"
    accuracy.set(xlabel="epoch", ylabel=metric.replace("_", " ").replace("val", "validation") + unit)
    for text in accuracy.legend().get_texts():
        text.set_parse_math(False)
    for axes in (loss, accuracy):
        count_along(axes)
    return figure


def _points(rows: Rows, column: str) -> list[tuple[float, float]]:
    """(epoch, value) of the rows that have one."""
    return [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]


def _marker(points: Sequence[tuple[float, float]]) -> str | None:
    return "o" if len(points) <= _MARKED else None


def _draw(
    axes: Any, lines: Mapping[str, Sequence[tuple[float, float]]], best: int | None
) -> list[tuple[str, float, str]]:
    """Draws train and val, with val at the best epoch marked; returns label, height and colour of their ends."""
    if best is not None:
        axes.axvline(best, color=FAINT, linewidth=0.9, linestyle=":")
    ends = []
    for name, points in lines.items():
        colour = _VAL if name == "val" else _TRAIN
        axes.plot([x for x, _ in points], [y for _, y in points], color=colour, marker=_marker(points))
        at_best = dict(points).get(best) if name == "val" and best is not None else None
        if at_best is not None:
            axes.plot([best], [at_best], marker="o", markersize=9, color=colour, markerfacecolor=PAPER, zorder=3)
        ends.append((name, points[-1][1], colour))
    return ends


def _label(axes: Any, ends: Sequence[tuple[str, float, str]]) -> None:
    """Names lines at their right ends, moved apart where they would touch."""
    axes.autoscale_view()
    place = axes.transScale + axes.transLimits
    height = 72 * 0.8 * axes.figure.get_figheight() * axes.get_position().height  # about, before the layout is made
    step, top = _LINE / height, float("inf")
    heights = sorted(((place.transform((0, y))[1], name, colour) for name, y, colour in ends), reverse=True)
    for y, name, colour in heights:
        top = min(y, top - step)
        axes.text(1.012, top, name, color=colour, transform=axes.transAxes, va="center", fontsize=9)
