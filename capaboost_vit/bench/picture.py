"""A result as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..training.figures import save_figure
from .capacity import PLAIN, TARGETS, held_means
from .timing import WHOLE

PICTURES = ("speed", "scale", "capacity")  # kinds of results that have one; of others a table says all

_PHASES = {"forward": "#9ecae1", "backward": "#3182bd", "update": "#08306b"}
_LINES = {"floor": ("#888888", "--"), "peft": ("#d95f02", "-"), "capaboost": ("#1b6ca8", "-")}
_TITLES = {"all-linears": "all linears", "q-v": "q and v", "methods": "other methods"}
# above the panel, where no bar is
_ABOVE: dict[str, Any] = {"fontsize": 8, "loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 3, "frameon": False}


def draw_result(result: Mapping[str, Any], path: str | Path) -> Path | None:
    """Draws a result as PNG; returns the path, or None without matplotlib or anything to draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return None
    if result["kind"] not in PICTURES:
        return None
    figure = {"speed": _speed, "scale": _scale, "capacity": _capacity}[result["kind"]](result)
    if figure is None:
        return None
    path = Path(path)
    save_figure(figure, path)
    return path


def _speed(result: Mapping[str, Any]) -> Any:
    """A row per group: the step in units of the floor, and the peak of its memory."""
    groups = {name: group for name, group in result["groups"].items() if group["cases"]}
    if not groups:
        return None
    heights = [1.2 + len(group["cases"]) for group in groups.values()]
    figure = _figure(11, 0.9 + 0.3 * sum(heights), _title(result))
    panels = figure.subplots(len(groups), 2, squeeze=False, height_ratios=heights, width_ratios=[3, 2])
    for (steps, memory), (name, group) in zip(panels, groups.items(), strict=True):
        cases = group["cases"]
        steps.set_title(_TITLES.get(name, name), loc="left", fontsize=10)
        for axes in (steps, memory):
            axes.set_yticks(range(len(cases)), cases, fontsize=8)
            axes.invert_yaxis()
            axes.spines[["top", "right"]].set_visible(False)
        memory.set_yticklabels([])
        _draw_steps(steps, cases)
        _draw_memory(memory, group)
    panels[0, 0].legend(**_ABOVE)
    panels[-1, 0].set_xlabel("training step / floor (whiskers: quartiles of the rounds' ratios)")
    panels[-1, 1].set_xlabel("memory of a step (MB)")
    return figure


def _draw_steps(axes: Any, cases: Mapping[str, Any]) -> None:
    unit = cases["floor"].get("times", {}).get(WHOLE, {}).get("median")
    if unit is None:
        return
    furthest = 1.0
    for i, entry in enumerate(cases.values()):
        whole = entry["times"][WHOLE]
        # the phases' medians, scaled so that the bar is as long as the median ratio, which is the steadier number
        stretch = whole["ratio"] / sum(entry["times"][phase]["median"] for phase in _PHASES)
        left = 0.0
        for phase, colour in _PHASES.items():
            width = stretch * entry["times"][phase]["median"]
            axes.barh(i, width, left=left, color=colour, height=0.7, label=phase if i == 0 else None)
            left += width
        low, high = whole["ratio_quartiles"]
        axes.plot([low, high], [i, i], color="black", linewidth=1)
        axes.text(max(left, high) + 0.02, i, f"{whole['ratio']:.2f}", va="center", fontsize=8)
        furthest = max(furthest, left, high)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, 1.12 * furthest)


def _draw_memory(axes: Any, group: Mapping[str, Any]) -> None:
    sizes = [entry.get("memory") for entry in group["cases"].values()]
    if not all(sizes):
        axes.set_axis_off()
        return
    rows, peaks = range(len(sizes)), [memory["peak"] / 1e6 for memory in sizes]
    axes.barh(rows, peaks, color="#c7c7c7", height=0.7, label="peak")
    axes.barh(
        rows, [memory["saved"] / 1e6 for memory in sizes], color="#74a57f", height=0.35, label="saved activations"
    )
    for i, peak in enumerate(peaks):
        axes.text(peak, i, f" {peak:.0f}", va="center", fontsize=8)
    if "stored_inputs" in group:
        least = peaks[0] + group["stored_inputs"]["all"] / 1e6
        axes.axvline(least, color="black", linewidth=0.8, linestyle=":", label="floor + stored inputs")
    axes.set_xlim(0, 1.15 * max(peaks))
    axes.legend(**_ABOVE)


def _scale(result: Mapping[str, Any]) -> Any:
    """A column per thing that grows: the step in units of the floor, and images or tokens per second."""
    from matplotlib.ticker import LogLocator, NullLocator

    found = result["axes"]
    if not found:
        return None
    figure = _figure(2.9 * len(found) + 0.6, 5.4, _title(result))
    panels = figure.subplots(2, len(found), squeeze=False, sharey="row")
    for column, (name, points) in enumerate(found.items()):
        ratio, speed = panels[:, column]
        for case, (colour, style) in _LINES.items():
            there = [(i, point["cases"][case]) for i, point in enumerate(points) if case in point["cases"]]
            places = [i for i, _ in there]
            whole = [entry["times"][WHOLE] for _, entry in there]
            look = {"color": colour, "linestyle": style, "marker": "o", "markersize": 3, "label": case}
            ratio.plot(places, [timing["ratio"] for timing in whole], **look)
            low, high = ([timing["ratio_quartiles"][end] for timing in whole] for end in (0, 1))
            ratio.fill_between(places, low, high, color=colour, alpha=0.2, linewidth=0)
            speed.plot(places, [entry[f"{result['items']}_per_second"] for _, entry in there], **look)
        speed.set_yscale("log")
        speed.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        speed.yaxis.set_major_formatter("{x:g}")
        speed.yaxis.set_minor_locator(NullLocator())
        speed.set_xlabel(name)
        labels = [str(point["value"]).removeprefix("vit_").partition("_patch")[0] for point in points]
        for axes in (ratio, speed):
            axes.set_xticks(range(len(points)), labels, fontsize=8)
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("training step / floor")
    panels[1, 0].set_ylabel(f"{result['items']} / s")
    panels[0, 0].legend(fontsize=8)
    return figure


def _capacity(result: Mapping[str, Any]) -> Any:
    """Two panels, the full update and Gaussian matrices: what each kind holds, over the rank."""
    ranks = list(result["ranks"])
    size = "all of one r store as much, but for the larger rank"
    figure = _figure(9.5, 4.4, f"Held by low-rank updates, mean of {len(result['targets'])} weights; {size}")
    for axes, (kind, name) in zip(figure.subplots(1, 2), TARGETS.items(), strict=True):
        for i, (case, means) in enumerate(held_means(result, kind).items()):
            look = {"color": f"C{i}", "marker": "os^vD*"[i % 6], "linestyle": "-" if case == PLAIN else "--"}
            axes.plot(range(len(ranks)), means, label=case, **look)
        axes.set_title(name, fontsize=10)
        axes.set_xticks(range(len(ranks)), [f"r = {rank}" for rank in ranks])
        axes.set_ylim(bottom=0)
        axes.set_ylabel("squared norm held (%)")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    return figure


def _title(result: Mapping[str, Any]) -> str:
    config, machine = result["config"], result["machine"]
    precision = config["amp_dtype"] if config["amp"] else "float32"
    where = (
        machine["gpu"]["name"] if result["device"] == "cuda" else f"{machine['cpu']}, {machine['threads']} thread(s)"
    )
    shape = f"{config['model']}, {result['size']}, batch {config['batch_size']}, rank {config['rank']}"
    return f"{shape}, {precision}{', compiled' if config['compile'] else ''}; {where}"


def _figure(width: float, height: float, title: str) -> Any:
    """An empty figure that needs no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=10, parse_math=False)
    return figure
