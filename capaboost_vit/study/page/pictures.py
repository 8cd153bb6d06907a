"""The pictures of one part of a study, each with words for those who cannot see it and with its numbers."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...training.figures import draw_mask
from .costs import Cost
from .curves import Curve, curve_rows
from .details import cost_table, csv_uri, mask_table, rank_table, update_rows
from .figures import draw_differences, draw_lines, draw_pareto, draw_radar
from .grid import Grid
from .paired import overall
from .svg import styled, swatch, to_svg
from .tables import Table
from .updates import Adapters, depth_means, mean_shares

_COSTS = (
    ("trained", "parameters trained outside the classifier", True),
    ("executed", "multiply-adds of a forward pass, unmerged", False),
    ("memory", "peak memory of the process (MB)", False),
    ("seconds", "training time of a run (s)", False),
)


@dataclass(frozen=True)
class Panel:
    """One drawing: its title and its `<svg>`."""

    title: str
    svg: str


@dataclass(frozen=True)
class Picture:
    """Panels that belong together, their legend, numbers and files to download (name, data: URI)."""

    key: str
    title: str
    text: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...] = ()
    numbers: Table | None = None
    download: tuple[str, str] | None = None


class Illustrator:
    """Draws the pictures of a part; `key` begins the ids of all of them."""

    def __init__(self, grid: Grid, *, key: str) -> None:
        self.grid, self.key = grid, key
        self.places = {row: place for place, row in enumerate(grid.rows)}

    def costs(self, costs: Sequence[Cost]) -> Picture:
        """Accuracy against parameters, FLOPs, memory and time."""
        panels: list[Panel] = []
        drawn: set[str] = set()
        for field, label, log in _COSTS:
            points = {
                self.places[c.row]: (c.row, float(getattr(c, field)), c.accuracy)
                for c in costs
                if c.accuracy is not None and getattr(c, field) is not None
            }
            if points:
                drawn |= {name for name, _, _ in points.values()}
                with styled():
                    figure = draw_pareto(points, label=label, log=log)
                words = "; ".join(f"{name}: {x:,.0f}, {y:.2f} %" for name, x, y in points.values())
                panels.append(self._panel(f"Accuracy and {label}", figure, f"cost-{field}", words))
        return Picture(
            f"{self.key}-costs",
            "Accuracy against costs",
            "The line joins the methods that no other one beats in both accuracy and cost. Methods with a missing mean "
            "accuracy or cost are not drawn; the table has what is known of them.",
            tuple(panels),
            self._legend((row for row in self.grid.rows if row in drawn), "cost-key"),
            cost_table(costs, key=f"{self.key}-cost-table"),
        )

    def groups(self) -> Picture | None:
        """A radar over groups, or over tasks where there are no three groups."""
        groups = [a for a in self.grid.averages if not a.name.startswith("mean of ")]
        names = [a.name for a in groups] if len(groups) > 2 else list(self.grid.tasks)
        if len(names) < 3:
            return None
        values = {}
        for row, place in self.places.items():
            found = [self.grid.mean_of(row, a) for a in groups] if len(groups) > 2 else None
            found = found or [self.grid.one(row, task) for task in names]
            means = [s.mean for s in found if s.mean is not None and not s.lacking]
            if len(means) == len(names):
                values[place] = means
        if not values:
            return None
        with styled():
            figure = draw_radar(values, names)
        rows = {place: row for row, place in self.places.items()}
        words = "; ".join(
            f"{rows[place]}: " + ", ".join(f"{name} {v:.2f} %" for name, v in zip(names, found, strict=True))
            for place, found in values.items()
        )
        what = "groups of tasks" if len(groups) > 2 else "tasks"
        return Picture(
            f"{self.key}-groups",
            f"Accuracy over {what}",
            "Rings are accuracies in per cent and do not begin at zero. Only methods without a missing cell are drawn; "
            "the numbers are in the table of accuracies.",
            (self._panel(f"Accuracy over {what}", figure, "radar", words),),
            self._legend((rows[place] for place in values), "radar-key"),
        )

    def differences(self, reference: str) -> Picture | None:
        """The overall differences to the reference, a panel for each of the two averages."""
        panels: list[Panel] = []
        for average in [a for a in self.grid.averages if a.name.startswith("mean of ")]:
            found = {row: overall(self.grid, row, reference, average) for row in self.grid.rows if row != reference}
            lines = [(row, d.mean, d.low, d.high) for row, d in found.items() if d.mean is not None]
            if lines:
                with styled():
                    figure = draw_differences(lines, reference=reference)
                words = "; ".join(
                    f"{row}: {mean:+.2f}" + ("" if low is None else f", interval {low:+.2f} to {high:+.2f}")
                    for row, mean, low, high in lines
                )
                place = len(panels)
                panels.append(self._panel(f"Difference to {reference}, {average.name}", figure, f"diff{place}", words))
        text = "A dot is the mean difference, a bar its 95 % interval; where a bar crosses zero nothing is decided."
        title = f"Differences to {reference}"
        return Picture(f"{self.key}-differences", title, text, tuple(panels)) if panels else None

    def curves(self, curves: Sequence[Curve]) -> Picture | None:
        """Training loss of each task, and accuracy on val where the runs had one."""
        panels: list[Panel] = []
        for column, label in (("train_loss", "training loss"), ("val_accuracy", "accuracy on val (%)")):
            for task in self.grid.tasks:
                mine = [c for c in curves if c.task == task and column in c.columns]
                lines = {self.places[c.row]: (c.epochs, c.columns[column]) for c in mine}
                if lines:
                    with styled():
                        figure = draw_lines(lines, x="epoch", y=label, log=column == "train_loss")
                    ends = "; ".join(f"{c.row}: {c.columns[column][-1]:.4g}" for c in mine)
                    title = f"{task}: {label}"
                    panels.append(self._panel(title, figure, f"{column}-{len(panels)}", f"at the end {ends}"))
        if not panels:
            return None
        return Picture(
            f"{self.key}-curves",
            "Learning curves",
            "Means over the finished seeds. All points are in the csv file.",
            tuple(panels),
            self._legend((row for row in self.grid.rows if any(c.row == row for c in curves)), "curve-key"),
            download=(f"{self.key}-learning-curves.csv", csv_uri(curve_rows(curves))),
        )

    def updates(self, adapters: Sequence[Adapters]) -> Picture | None:
        """Spectra of dW, and its ranks over the depth of the model."""
        shown = [a for a in adapters if a.updates]
        if not shown:
            return None
        drawn = {
            "Spectrum of dW": (
                {self.places[a.row]: _along(dict(enumerate(mean_shares(a.updates), 1))) for a in shown},
                {"x": "index", "y": "singular value / the largest", "log": True},
            )
        }
        for measure in ("effective", "stable"):
            lines = {self.places[a.row]: _along(depth_means(a.updates, measure)) for a in shown}
            lines = {place: line for place, line in lines.items() if line[0]}
            if lines:
                title = f"{measure.capitalize()} rank of dW by block"
                drawn[title] = (lines, {"x": "block", "y": f"{measure} rank", "marked": True})
        panels: list[Panel] = []
        for title, (lines, options) in drawn.items():
            with styled():
                figure = draw_lines(lines, **options)  # type: ignore[arg-type]
            means = "; ".join(f"{a.row} {statistics.fmean(u.ranks.effective for u in a.updates):.2f}" for a in shown)
            panels.append(self._panel(title, figure, f"update{len(panels)}", f"mean effective ranks {means}"))
        return Picture(
            f"{self.key}-updates",
            "Spectra and ranks of the updates dW",
            "From the adapter files of the first finished seed of each task: means over tasks, targets and, in the "
            "spectrum, blocks. Stable rank: ||dW||_F^2 / ||dW||_2^2; effective rank: exp of the entropy of the "
            "singular values over their sum.",
            tuple(panels),
            self._legend((a.row for a in shown), "update-key"),
            rank_table(shown, key=f"{self.key}-rank-table"),
            (f"{self.key}-updates.csv", csv_uri(update_rows(shown))),
        )

    def masks(self, adapters: Sequence[Adapters]) -> Picture | None:
        """The first masks of each method, with how much of the weights they cover and share."""
        panels: list[Panel] = []
        for found in adapters:
            if found.masks is not None:
                name, mask = found.masks.example
                with styled():
                    figure = draw_mask(name.removesuffix(".mask"), mask, width=5.2)
                words = f"{found.masks.branches} branches use {100 * found.masks.covered:.1f} % of the entries"
                panels.append(self._panel(found.row, figure, f"mask{len(panels)}", words))
        if not panels:
            return None
        return Picture(
            f"{self.key}-masks",
            "Masks: coverage and overlap",
            "One masked weight of each method, a corner where it is large: what each branch uses, and below by how "
            "many branches each entry is used.",
            tuple(panels),
            numbers=mask_table(adapters, key=f"{self.key}-mask-table"),
        )

    def _panel(self, title: str, figure: object, name: str, words: str) -> Panel:
        return Panel(title, to_svg(figure, prefix=f"{self.key}-{name}", label=f"{title}. {words}"))

    def _legend(self, rows: Iterable[str], name: str) -> tuple[tuple[str, str], ...]:
        with styled():
            return tuple((swatch(self.places[row], prefix=f"{self.key}-{name}"), row) for row in rows)


def _along(values: dict[int, float]) -> tuple[list[int], list[float]]:
    return list(values), list(values.values())
