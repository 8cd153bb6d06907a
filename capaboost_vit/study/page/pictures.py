"""The pictures of one comparison, each with words for those who cannot see it and with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...training.figures import draw_mask
from .details import cost_table, csv_uri, mask_table, rank_table, update_rows
from .figures import draw_differences, draw_lines, draw_pareto, draw_radar
from .grid import Grid
from .paired import compare
from .svg import styled, swatch, to_svg
from .tables import ReportTable, read_words
from .updates import Adapters, mean_shares

_COSTS = (
    ("trained", "parameters trained outside the classifier", True),
    ("executed", "multiply-adds of a forward pass, unmerged", False),
    ("memory_mb", "peak memory of the process (MB)", False),
    ("train_seconds", "training time of a run (s)", False),
)

Panel = tuple[str, str]


@dataclass(frozen=True)
class Picture:
    """Drawings that belong together (title, `<svg>`), their legend, numbers and files to download (name, data: URI)."""

    key: str
    title: str
    text: str
    panels: Sequence[Panel]
    legend: tuple[tuple[str, str], ...]
    numbers: ReportTable | None
    download: tuple[str, str] | None


class Illustrator:
    """Draws the pictures of a comparison."""

    def __init__(self, grid: Grid) -> None:
        self.grid, self.key = grid, grid.key
        self.places = {row: place for place, row in enumerate(grid.rows)}

    def costs(self, costs: pd.DataFrame) -> Picture:
        """Accuracy against parameters, FLOPs, memory and time."""
        panels: list[Panel] = []
        drawn: set[str] = set()
        for field, label, log in _COSTS:
            table = costs[[field, "accuracy"]].dropna()
            points = {self.places[row]: (row, float(cost), float(score)) for row, cost, score in table.itertuples()}
            if points:
                drawn |= set(table.index)
                words = "; ".join(f"{name}: {x:,.0f}, {y:.2f} %" for name, x, y in points.values())
                title = f"Accuracy and {label}"
                panels.append(self._panel(title, f"cost-{field}", words, draw_pareto, points, label=label, log=log))
        return self._picture("costs", panels, drawn, cost_table(costs, key=f"{self.key}-cost-table"))

    def groups(self) -> Picture | None:
        """A radar over groups, or over tasks where there are no three groups."""
        spokes = [a for a in self.grid.averages if not a.name.startswith("mean of ")]
        what = "groups of tasks" if len(spokes) > 2 else "tasks"
        spokes = spokes if len(spokes) > 2 else [c for c in self.grid.columns if c.trial is not None]
        names = [spoke.name for spoke in spokes]
        values = {}
        for row in self.grid.rows:
            scores = [self.grid.score(row, spoke) for spoke in spokes]
            if not any(score.lacking for score in scores):
                values[row] = [score.mean for score in scores if score.mean is not None]
        if len(names) < 3 or not values:
            return None
        words = "; ".join(
            f"{row}: " + ", ".join(f"{name} {mean:.2f} %" for name, mean in zip(names, means, strict=True))
            for row, means in values.items()
        )
        lines = {self.places[row]: means for row, means in values.items()}
        panel = self._panel(f"Accuracy over {what}", "radar", words, draw_radar, lines, names)
        return self._picture("groups", [panel], values, spokes=what)

    def differences(self, reference: str) -> Picture | None:
        """The overall differences to the reference, a panel for each of the two averages."""
        panels: list[Panel] = []
        for average in [a for a in self.grid.averages if a.name.startswith("mean of ")]:
            compared = {row: compare(self.grid, row, reference, average) for row in self.grid.rows if row != reference}
            lines = [(row, d.mean, d.low, d.high) for row, d in compared.items() if d.mean is not None]
            if lines:
                words = "; ".join(
                    f"{row}: {mean:+.2f}" + ("" if low is None else f", interval {low:+.2f} to {high:+.2f}")
                    for row, mean, low, high in lines
                )
                title, name = f"Difference to {reference}, {average.name}", f"diff{len(panels)}"
                panels.append(self._panel(title, name, words, draw_differences, lines, reference=reference))
        return self._picture("differences", panels, reference=reference) if panels else None

    def curves(self, curves: pd.DataFrame) -> Picture | None:
        """Training loss of each task, and accuracy on val where the runs had one."""
        panels: list[Panel] = []
        for column, label in (("train_loss", "training loss"), ("val_accuracy", "accuracy on val (%)")):
            for task in self.grid.tasks:
                points = curves[curves.task == task].dropna(subset=[column])
                of_row = dict(iter(points.groupby("method", sort=False)))
                if of_row:
                    lines = {self.places[row]: table.set_index("epoch")[column] for row, table in of_row.items()}
                    ends = "; ".join(f"{row}: {table[column].iloc[-1]:.4g}" for row, table in of_row.items())
                    options = {"x": "epoch", "y": label, "log": column == "train_loss"}
                    name, words = f"{column}-{len(panels)}", f"at the end {ends}"
                    panels.append(self._panel(f"{task}: {label}", name, words, draw_lines, lines, **options))
        download = (f"{self.key}-learning-curves.csv", csv_uri(curves))
        return self._picture("curves", panels, set(curves.method), download=download) if panels else None

    def updates(self, adapters: Sequence[Adapters]) -> Picture | None:
        """Spectra of dW, and its ranks over the depth of the model."""
        shown = [a for a in adapters if len(a.updates)]
        if not shown:
            return None
        spectra = {self.places[a.row]: mean_shares(a.updates) for a in shown}
        drawn = {"Spectrum of dW": (spectra, {"x": "index", "y": "singular value / the largest", "log": True})}
        for measure in ("effective", "stable"):
            depths = {self.places[a.row]: a.updates.groupby("block")[measure].mean() for a in shown}
            lines = {place: depth for place, depth in depths.items() if len(depth)}
            if lines:
                options = {"x": "block", "y": f"{measure} rank", "marked": True}
                drawn[f"{measure.capitalize()} rank of dW by block"] = (lines, options)
        words = "mean effective ranks " + "; ".join(f"{a.row} {a.updates.effective.mean():.2f}" for a in shown)
        panels = [
            self._panel(title, f"update{i}", words, draw_lines, lines, **options)
            for i, (title, (lines, options)) in enumerate(drawn.items())
        ]
        table = rank_table(shown, key=f"{self.key}-rank-table")
        download = (f"{self.key}-updates.csv", csv_uri(update_rows(shown)))
        return self._picture("updates", panels, {a.row for a in shown}, table, download)

    def masks(self, adapters: Sequence[Adapters]) -> Picture | None:
        """The first masks of each method, with how much of the weights they cover and share."""
        panels: list[Panel] = []
        for shown in adapters:
            if shown.masks is not None:
                name, mask = shown.masks.example
                words = f"{shown.masks.branches} branches use {100 * shown.masks.covered:.1f} % of the entries"
                label = name.removesuffix(".mask")
                panels.append(self._panel(shown.row, f"mask{len(panels)}", words, draw_mask, label, mask, width=5.2))
        table = mask_table(adapters, key=f"{self.key}-mask-table")
        return self._picture("masks", panels, numbers=table) if panels else None

    def _panel(self, title: str, name: str, words: str, draw: Callable[..., Any], *data: Any, **options: Any) -> Panel:
        """What `draw` draws of the data, with its title and words as the label."""
        with styled():
            return title, to_svg(draw(*data, **options), prefix=f"{self.key}-{name}", label=f"{title}. {words}")

    def _picture(
        self,
        name: str,
        panels: Sequence[Panel],
        legend: Collection[str] = (),
        numbers: ReportTable | None = None,
        download: tuple[str, str] | None = None,
        **values: str,
    ) -> Picture:
        """A picture with its title and words in texts.yaml; the methods of its legend stand in their order."""
        title, text = (words.format(**values) for words in read_words("texts.yaml")["pictures"][name].values())
        key = f"{self.key}-{name}"
        with styled():
            shown = tuple((swatch(i, prefix=f"{key}-key"), row) for row, i in self.places.items() if row in legend)
        return Picture(key, title, text, panels, shown, numbers, download)
