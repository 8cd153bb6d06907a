"""The confusion matrix of a run as a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .figures import FAINT, INK, PAPER, in_style, new_figure
from .metrics import wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_DRAWN = 1000  # classes: a matrix of more is neither stored nor seen
_NAMED_CLASSES = 30  # more class names than that cannot be read at the sides of a matrix
_COUNTED_CLASSES = 20
_SLANTED = 12  # names below the matrix stand at an angle
_LISTED = 14
_COLOUR = "#14599b"
_LIGHT = 0.6  # share from which the cells are dark, and what is written in them is white


@in_style
def draw_confusion(confusion: Tensor, classes: Sequence[str], *, title: str) -> Figure:
    """The confusion matrix (C, C), of at most 1,000 classes, as shares of each true class, and the recall of each.

    Counts are written in where there is room; of more than 30 classes the worst and the most frequent confusions are
    listed. Colours follow the square root of the share, so that rare confusions are seen.
    """
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    size = len(classes)
    counts = confusion.to_dense().double()
    totals = counts.sum(1)
    shares = counts / totals.clamp(min=1)[:, None]
    right, images = int(counts.diagonal().sum()), int(totals.sum())
    subtitle = f"{size} classes, {right:,} of {images:,} right"
    if images:
        low, high = wilson_interval(right, images)
        subtitle += f" ({100 * right / images:.2f} %, 95 % interval {low:.1f} to {high:.1f})"
    side = min(6.4, max(2.2, 0.46 * size))
    named = size <= _NAMED_CLASSES
    names = [_cut(name) for name in classes]
    # names take about 0.075 inches a letter, below at an angle or upright
    margin = 0.45 + (0.075 * max(map(len, names)) if named else 0.2)
    slanted = size <= _SLANTED
    width = max(5.6, side + margin + 0.4 + (1.5 if named else 3.4))
    figure = new_figure(width, side + margin * (0.72 if slanted else 1) + 1.75, title, subtitle)
    axes, beside = figure.subplots(1, 2, width_ratios=[side, 1.1 if named else 3.0])
    colours = LinearSegmentedColormap.from_list("share", [PAPER, _COLOUR])
    picture = axes.imshow(shares.numpy(), cmap=colours, norm=PowerNorm(0.5, 0, 1))
    ticks = [0, 0.01, 0.05, 0.2, 0.5, 1]
    bar = figure.colorbar(picture, ax=[axes, beside], location="bottom", ticks=ticks, aspect=45, shrink=0.75, pad=0.02)
    bar.set_label("share of the true class (colours by its square root)", color=FAINT, fontsize=8.5)
    bar.ax.set_xticklabels([f"{100 * tick:g} %" for tick in ticks], fontsize=8)
    bar.outline.set_visible(False)
    axes.set(xlabel="answer", ylabel="true class")
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
    axes.tick_params(length=0)
    if not named:
        _list(beside, counts, totals, names)
        return figure
    turned: dict[str, Any] = {"rotation": 90}
    if slanted:
        turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(size), names, fontsize=8, parse_math=False, **turned)
    axes.set_yticks(range(size), names, fontsize=8, parse_math=False)
    for i, j in counts.nonzero().tolist() if size <= _COUNTED_CLASSES else ():
        colour = PAPER if shares[i, j] > _LIGHT else INK
        axes.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", fontsize=7.5, color=colour)
    _draw_recalls(beside, shares.diagonal(), totals, thick=min(0.62, 0.25 * size / side))
    beside.set_box_aspect(side / 1.1)  # as high as the matrix beside it, which is square
    beside.set_ylim(axes.get_ylim())
    return figure


def _draw_recalls(axes: Any, recalls: Tensor, totals: Tensor, *, thick: float) -> None:
    """A bar for each class, in the order of the matrix's rows."""
    places = range(len(recalls))
    axes.barh(places, (100 * recalls).tolist(), height=thick, color=_COLOUR)
    axes.barh(places, [100 * (n > 0) for n in totals.tolist()], height=thick, color="#eeeeee", zorder=0)
    for place, recall, total in zip(places, recalls.tolist(), totals.tolist(), strict=True):
        text = f"{100 * recall:.1f} %  of {int(total)}" if total else "no image"
        axes.text(106, place, text, va="center", fontsize=7.5, color=INK if total else FAINT)
    axes.set(xlim=(0, 100), xticks=[], yticks=[])
    axes.set_title("recall", fontsize=9)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def _list(axes: Any, counts: Tensor, totals: Tensor, names: Sequence[str]) -> None:
    """The classes with the lowest recall, and the most frequent confusions, in words."""
    axes.set_axis_off()
    recalls = counts.diagonal() / totals.clamp(min=1)
    there = [i for i in recalls.argsort(stable=True).tolist() if totals[i]]
    lines = [("lowest recall", "")]
    lines += [(names[i], f"{100 * recalls[i]:.0f} % of {int(totals[i])}") for i in there[:_LISTED]]
    lines += [("", ""), ("most frequent confusions: true, answer", "")]
    cells = [(i, j, int(counts[i, j])) for i, j in counts.nonzero().tolist()]
    lines += [(f"{label}, {answer}", f"{n} of {of}") for label, answer, n, of in most_confused(cells, names, _LISTED)]
    for place, (text, number) in enumerate(lines):
        y, heading = 1 - (place + 0.5) / len(lines), not number
        look: dict[str, Any] = {"transform": axes.transAxes, "va": "center", "fontsize": 7.5, "parse_math": False}
        axes.text(0.02, y, text, color=FAINT if heading else INK, **look)
        axes.text(1, y, number, ha="right", color=INK, **look)


def most_confused(
    cells: Sequence[tuple[int, int, int]], classes: Sequence[str], most: int
) -> tuple[tuple[str, str, int, int], ...]:
    """The most frequent wrong answers: true class, answer, how often, of how many images of the class.

    Args:
        cells: of the confusion matrix: true class, answer, count; those left out are zero.
    """
    totals = Counter[int]()
    for label, _, count in cells:
        totals[label] += count
    wrong = sorted((-count, label, answer) for label, answer, count in cells if label != answer and count)
    return tuple((classes[i], classes[j], -count, totals[i]) for count, i, j in wrong[:most])


def _cut(name: str) -> str:
    return name if len(name) <= 22 else f"{name[:20]}…"
