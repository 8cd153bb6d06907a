"""Draws test accuracy over the learning rate, and over rate x size of the update, from reports of `capaboost study`.

    python docs/study/rates.py docs/study/results.json docs/study/rates.json --tasks eurosat cifar100 --output rates.png

The size of an update is the norm that its masks give it beside plain LoRA with r = 8 and alpha = 8, expected over
factors with independent entries: `alpha/r * sqrt(r/8) * sqrt(E[C^2])`, see capaboost_vit/core/rescaling.py.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from capaboost_vit.core.masking import Masking
from capaboost_vit.core.rescaling import rescaling

_TICKS = (0.003, 0.006, 0.012, 0.024, 0.048)


def update_size(method: dict) -> float:
    """The expected norm of dW beside that of plain LoRA with r = 8 and alpha = 8, for the same norms of the factors."""
    masking = Masking(method["num_branches"], method["density"], method["pattern"])
    own = rescaling(method["rescale"], masking) / rescaling("norm", masking)
    return own * method["alpha"] / method["rank"] * math.sqrt(method["rank"] / 8)


def read_points(files: list[str], task: str) -> list[tuple[str, float, float, list[float]]]:
    """(method, rate, size, test accuracies of the seeds) of all finished LoRA trials on the task."""
    found = defaultdict(dict)
    for file in files:
        for trial in json.loads(Path(file).read_text())["trials"]:
            method = trial["options"]["method"]
            if (trial["task"], trial["stage"], trial["state"], method["name"]) == (task, "final", "finished", "lora"):
                name = trial["method"] + (f", rescale {method['rescale']}" if method["rescale"] else "")
                name += f", alpha {method['alpha']:g}" if method["alpha"] != method["rank"] else ""
                # the same trial may stand in several files
                found[name, trial["options"]["lr"], update_size(method)][trial["seed"]] = trial["test_accuracy"]
    return [(*key, list(seeds.values())) for key, seeds in sorted(found.items())]


def draw(points: dict[str, list[tuple[str, float, float, list[float]]]], output: str, bottom: list[float]) -> None:
    """A row for each task: over the rate, and over rate x size; bars are standard errors."""
    figure = Figure(figsize=(11.5, 0.6 + 3.6 * len(points)), layout="constrained")
    names = sorted(
        {name for found in points.values() for name, *_ in found}, key=lambda n: (not n.startswith("lora"), n)
    )
    methods = list(dict.fromkeys(name.partition(",")[0] for name in names))
    shown = {}
    rows = figure.subplots(len(points), 2, sharey="row", squeeze=False)
    for number, (task, axes_of_row) in enumerate(zip(points, rows, strict=True)):
        for axes, title in zip(axes_of_row, ("learning rate", "learning rate x size of the update"), strict=True):
            for name in names:
                scaled = axes is axes_of_row[1]
                mine = [(rate * (size if scaled else 1), seeds) for n, rate, size, seeds in points[task] if n == name]
                if not mine:
                    continue
                mine.sort()
                means = [statistics.fmean(seeds) for _, seeds in mine]
                spread = [statistics.stdev(s) / math.sqrt(len(s)) if len(s) > 1 else 0.0 for _, s in mine]
                i = methods.index(
                    name.partition(",")[0]
                )  # what differs from the method's file has its colour, and a marker without filling
                look = {
                    "color": f"C{i % 10}",
                    "marker": "os^vD*PX<>"[i % 10],
                    "linestyle": "none" if scaled else "-",
                    "markerfacecolor": "none" if "," in name else f"C{i % 10}",
                }
                shown[name] = axes.errorbar([x for x, _ in mine], means, spread, capsize=2, linewidth=1, **look)
            low, high = axes.get_xlim()
            axes.set_xscale("log")
            axes.set_xticks([tick for tick in _TICKS if low <= tick <= high])
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_locator(NullLocator())
            axes.grid(alpha=0.3)
            if number == len(points) - 1:
                axes.set_xlabel(title)
        axes_of_row[0].set_ylabel(f"test accuracy on {task} (%)")
        if number < len(bottom):
            axes_of_row[0].set_ylim(bottom=bottom[number])
    figure.legend([shown[name] for name in names], names, loc="outside right upper", fontsize=8)
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", help="report.json of one or several studies")
    parser.add_argument("--tasks", nargs="+", default=["eurosat"])
    parser.add_argument("--bottom", type=float, nargs="*", default=[], help="lowest accuracy of each task's pictures")
    parser.add_argument("--output", default="rates.png")
    arguments = parser.parse_args()
    points = {task: read_points(arguments.reports, task) for task in arguments.tasks}
    for task, found in points.items():
        print(f"| {task} | rate | rate x size | test (%) | seeds |\n|---|---|---|---|---|")
        for name, rate, size, seeds in sorted(found, key=lambda point: point[1] * point[2]):
            spread = f" ± {statistics.stdev(seeds):.2f}" if len(seeds) > 1 else ""
            print(f"| {name} | {rate:g} | {rate * size:.4f} | {statistics.fmean(seeds):.2f}{spread} | {len(seeds)} |")
    draw(points, arguments.output, arguments.bottom)


if __name__ == "__main__":
    main()
