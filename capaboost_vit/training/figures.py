"""Pictures of a run: their common style, masks, spectra of the updates; see also curves.py and confusion.py."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

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
INK, FAINT, PAPER = "#1a1a1a", "#6b6b6b", "#ffffff"  # of the contact sheet, too
STYLE = "capaboost_vit.training.figures"  # figures.mplstyle
_SHOWN_LAYERS = 24
_NAMED_LAYERS = 12
_ROWS, _COLUMNS = 32, 192  # of a mask
_MARGIN, _TITLE, _SUBTITLE = 0.17, 0.36, 0.24  # inches

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


def styled() -> AbstractContextManager[None]:
    """Within the block matplotlib draws in the style of a run's pictures."""
    from matplotlib import style

    return style.context(STYLE)


def in_style(draw: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """A function that draws in the style of a run's pictures."""

    @functools.wraps(draw)
    def styled_draw(*arguments: _Arguments.args, **options: _Arguments.kwargs) -> _Result:
        with styled():
            return draw(*arguments, **options)

    return styled_draw


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


@in_style
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
@in_style
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


def hold_span(axes: Any, least: float, *, within: tuple[float, float] = (0.0, 100.0)) -> None:
    """Widens a vertical axis to at least so many units around its middle, so that noise does not fill it.

    Where that leaves `within`, the axis is moved.
    """
    low, high = axes.get_ylim()
    if high - low < least:
        low = max(within[0], (low + high - least) / 2)
        low = min(low, within[1] - least)
        high = low + least
    # room for a marker at the very end, no more
    room = (high - low) / 25
    axes.set_ylim(max(low, within[0] - room), min(high, within[1] + room))


def new_figure(width: float, height: float, title: str, subtitle: str = "", **look: Any) -> Any:
    """An empty figure that needs no display, with its title and a fainter line at the upper left.

    Args:
        width, height: in inches.
        look: of the title.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    left, top = _MARGIN / width, 1 - _MARGIN / height
    figure.text(left, top, title, va="top", parse_math=False, **{"fontsize": 13, **look})
    used = _MARGIN + _TITLE
    if subtitle:
        figure.text(left, 1 - used / height, subtitle, va="top", parse_math=False, fontsize=8.5, color=FAINT)
        used += _SUBTITLE
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - used / height))  # type: ignore[union-attr, call-arg]
    return figure
