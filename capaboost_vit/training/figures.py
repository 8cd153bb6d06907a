"""Pictures of a run: learning curves, confusion matrix, masks, spectra of the updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..core.analysis import spectrum
from ..core.branch import LowRankFactors
from ..core.inject import branches
from ..core.tied import TiedMaskedWeight
from ..io.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 120
MOST_DRAWN = 1000  # classes: a matrix of more is neither stored nor seen
_NAMED_CLASSES = 30  # more class names than that cannot be read
_SHOWN_LAYERS = 24
_NAMED_LAYERS = 12
_ROWS, _COLUMNS = 32, 192  # of a mask


def save_figure(figure: Figure, path: Path) -> None:
    """Atomic write of a figure as PNG."""
    from matplotlib.image import imsave

    with replacing(path) as partial:
        imsave(partial, pixels(figure), format="png", dpi=_DPI)


def pixels(figure: Figure) -> Any:
    """The figure as it is drawn, (H, W, 4) uint8; the file and TensorBoard share one drawing, which takes a while."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if figure.stale or not isinstance(figure.canvas, FigureCanvasAgg):
        figure.set_dpi(_DPI)
        FigureCanvasAgg(figure).draw()  # becomes the figure's canvas
    assert isinstance(figure.canvas, FigureCanvasAgg)
    return np.asarray(figure.canvas.buffer_rgba())


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], *, title: str, score: str = "accuracy") -> Figure:
    """Learning curves of one or more runs: training loss, and a score on val, or accuracy in training without val.

    Args:
        runs: rows of summary.csv (`epoch`, `train_loss`, `train_accuracy`, `val_SCORE`) by run name.
        score: its name.
    """
    figure = new_figure(9, 3.6, title)
    loss, accuracy = figure.subplots(1, 2)
    validated = any(row.get(f"val_{score}") is not None for rows in runs.values() for row in rows)
    metric = f"val_{score}" if validated else "train_accuracy"
    for name, rows in runs.items():
        for axes, column in ((loss, "train_loss"), (accuracy, metric)):
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            marker = "o" if len(points) < 15 else None
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, marker=marker, markersize=3)
    loss.set(xlabel="epoch", ylabel="training loss")
    if all(row["train_loss"] is None or row["train_loss"] > 0 for rows in runs.values() for row in rows):
        make_logarithmic(loss)
    accuracy.set(xlabel="epoch", ylabel=metric.replace("_", " ").replace("val", "validation") + " (%)")
    for text in accuracy.legend().get_texts():
        text.set_parse_math(False)
    for axes in (loss, accuracy):
        count_along(axes)
        axes.grid(alpha=0.3)
    return figure


def draw_confusion(confusion: Tensor, classes: Sequence[str], *, title: str) -> Figure:
    """The confusion matrix (C, C), of at most 1,000 classes, as shares of each true class.

    Counts are written in where there is room.

    Colours follow the square root of the share, so that rare confusions are seen.
    """
    from matplotlib.colors import PowerNorm

    size = len(classes)
    figure = new_figure(7.5, 6.8, title)
    axes = figure.subplots()
    counts = confusion.to_dense().double()
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    picture = axes.imshow(shares.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 1))
    figure.colorbar(picture, ax=axes, shrink=0.8, label="share of the true class")
    axes.set(xlabel="answer", ylabel="true class")
    if size > _NAMED_CLASSES:
        return figure
    names = [name if len(name) <= 22 else f"{name[:20]}…" for name in classes]
    axes.set_xticks(range(size), names, rotation=90, fontsize=8, parse_math=False)
    axes.set_yticks(range(size), names, fontsize=8, parse_math=False)
    for i, j in counts.nonzero().tolist() if size <= 20 else ():
        colour = "white" if shares[i, j] > 0.3 else "black"
        axes.text(j, i, str(int(counts[i, j])), ha="center", va="center", fontsize=7, color=colour)
    return figure


def draw_masks(model: nn.Module) -> Figure | None:
    """The masks of the first masked weight of a model, as `draw_mask` does; None without masks."""
    for name, module in model.named_modules():
        if isinstance(module, TiedMaskedWeight) and module.mask is not None and module.mask.ndim == 3:
            return draw_mask(name, module.mask)
    return None


def draw_mask(name: str, mask: Tensor, *, width: float = 9) -> Figure:
    """The masks (K, out, in) of a weight, one picture per branch, and how many branches use each entry.

    Of a large weight a corner is shown.

    Args:
        width: of the figure, in inches.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    masks = mask.cpu().float()
    shape = " x ".join(str(size) for size in masks.shape[1:])
    if masks.shape[1] > masks.shape[2]:
        masks = masks.transpose(1, 2)
    part = "" if masks.shape[1] <= _ROWS and masks.shape[2] <= _COLUMNS else ", a corner"
    masks = masks[:, :_ROWS, :_COLUMNS]
    count = len(masks)
    figure = new_figure(width, 0.7 + 1.1 * (count + 1), f"masks of {name} ({shape}{part})")
    panels = figure.subplots(count + 1, 1, squeeze=False)[:, 0]
    marks = ListedColormap(["#c9403d", "#f5f5f5", "#3a85bd"])
    values = [value for value in (-1, 0, 1) if bool((masks == value).any())]
    for i, (axes, picture) in enumerate(zip(panels, masks, strict=False)):
        shown = axes.imshow(picture.numpy(), cmap=marks, vmin=-1.5, vmax=1.5, aspect="auto", interpolation="nearest")
        axes.set_ylabel(f"branch {i + 1}", fontsize=8)
    bar = figure.colorbar(shown, ax=list(panels[:-1]), ticks=values, aspect=30)
    bar.ax.set_ylim(min(values) - 0.5, 1.5)
    colours = colormaps["Greys"].resampled(count + 1)
    uses = masks.ne(0).sum(0).numpy()
    shown = panels[-1].imshow(uses, cmap=colours, vmin=-0.5, vmax=count + 0.5, aspect="auto", interpolation="nearest")
    panels[-1].set_ylabel("in use by", fontsize=8)
    figure.colorbar(shown, ax=panels[-1], ticks=range(count + 1), aspect=30 / count)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
    return figure


@torch.no_grad()
def draw_spectrum(model: nn.Module) -> Figure | None:
    """Singular values of the update dW of each linear low-rank branch, over their index; None without such a branch.

    A dotted line stands at the rank of one masked branch: what lies right of it is what the masks add.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable

    updates = {
        name: (branch, factors)
        for name, branch in branches(model).items()
        if isinstance(branch, LowRankFactors) and (factors := branch.linear_factors()) is not None
    }
    if not updates:
        return None
    figure = new_figure(7.5, 4.2, "singular values of the updates dW")
    axes, colours = figure.subplots(), colormaps["viridis"]
    shown = list(updates.items())[:: -(-len(updates) // _SHOWN_LAYERS)]
    for i, (name, (_, factors)) in enumerate(shown):
        values = spectrum(small_update(*factors, scaling=1.0))
        axes.plot(
            range(1, len(values) + 1), values.clamp(min=1e-12), color=colours(i / max(1, len(shown) - 1)), label=name
        )
    for rank in sorted({branch.rank for _, (branch, _) in shown if branch.num_branches > 1}):
        axes.axvline(rank + 0.5, color="black", linestyle=":", linewidth=1)
        axes.text(
            rank + 0.6, 0.97, f"rank {rank} of one branch", transform=axes.get_xaxis_transform(), fontsize=8, va="top"
        )
    if len(shown) <= _NAMED_LAYERS:
        axes.legend(fontsize=6, loc="lower left")
    else:
        bar = figure.colorbar(ScalarMappable(cmap="viridis"), ax=axes, ticks=[0, 1])
        bar.ax.set_yticklabels(["first", "last"])
        bar.set_label(f"{len(shown)} of {len(updates)} updates, in the order of the model", fontsize=8)
    make_logarithmic(axes)
    count_along(axes)
    axes.set(xlabel="index", ylabel="singular value")
    axes.grid(alpha=0.3)
    return figure


def small_update(down: Tensor, up: Tensor, *, scaling: float) -> Tensor:
    """A small float64 matrix with the nonzero singular values of `scaling * up @ down`, from its QR factors.

    Args:
        down: (R, in). up: (out, R).
    """
    down, up = (factor.detach().double().cpu() for factor in (down, up))
    return scaling * (torch.linalg.qr(up).R @ torch.linalg.qr(down.T).R.T)


def make_logarithmic(axes: Any) -> None:
    """A logarithmic vertical axis with plain numbers on it."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())


def count_along(axes: Any) -> None:
    """Whole numbers on the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def new_figure(width: float, height: float, title: str, **look: Any) -> Any:
    """An empty figure that needs no display; `look` is that of its title."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title, parse_math=False, **look)
    return figure
