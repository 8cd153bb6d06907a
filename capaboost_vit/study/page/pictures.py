"""The pictures of one comparison, each with words for those who cannot see it and with its numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from ...training.figures import draw_mask
from ..escaping import csv_cell
from ..outcomes import Outcome
from .costs import cost_table
from .figures import draw_differences, draw_lines, draw_pareto, draw_radar, series_style, styled, swatch, to_svg
from .grid import Grid
from .predictions import data_uri
from .tables import ReportTable, read_words
from .updates import Adapters, mask_table, mean_shares, rank_table, update_rows

_CURVES = ["train_loss", "val_loss", "train_accuracy", "val_accuracy"]  # columns of summary.csv

_ALIKE = 0.01  # costs that differ by less are the same, and a drawing shows noise
_LEAST_SPAN = 5.0  # per cent that the axis of an accuracy shows at least

# title, its content in words for those who cannot see it, and what draws it
Panel = tuple[str, str, Callable[[], Any]]


@dataclass(frozen=True)
class Picture:
    """Drawings that belong together (title, `<svg>`), their legend, numbers and what to download (name, data: URI)."""

    key: str
    title: str
    text: str
    panels: Sequence[tuple[str, str]]
    legend: Sequence[tuple[str, str]]
    numbers: ReportTable | None
    download: tuple[str, str] | None


class Illustrator:
    """Draws the pictures of a comparison."""

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.looks = {row: series_style(place) for place, row in enumerate(grid.rows)}

    def costs(self, costs: pd.DataFrame) -> Picture | None:
        """Accuracy against parameters, FLOPs, memory and time."""
        panels: list[Panel] = []
        drawn: set[str] = set()
        for field, cost in read_words("texts.yaml")["costs"].items():
            table = costs[[field, "accuracy", "spread"]].dropna(subset=[field, "accuracy"])
            table = table.set_axis(["cost", "accuracy", "spread"], axis=1)
            if "axis" in cost and len(table) and table.cost.min() < (1 - _ALIKE) * table.cost.max():
                drawn |= set(table.index)
                description = "; ".join(f"{name}: {x:,.0f}, {y:.2f} %" for name, x, y, _ in table.itertuples())
                draw = partial(draw_pareto, table, self.looks, label=cost["axis"], log=cost.get("log", False))
                panels.append((f"Accuracy and {cost['axis']}", description, draw))
        return self._picture("costs", panels, drawn, cost_table(costs, self.grid))

    def groups(self) -> Picture | None:
        """A radar over groups, or over tasks where there are no three groups."""
        grouped = len(self.grid.group_means) > 2
        spokes = self.grid.group_means if grouped else self.grid.of_tasks
        what = "groups of tasks" if grouped else "tasks"
        scores = {row: [self.grid.score(row, spoke) for spoke in spokes] for row in self.grid.rows}
        means = {row: [None if score.lacking else score.mean for score in line] for row, line in scores.items()}
        table = pd.DataFrame.from_dict(means, orient="index", columns=[spoke.name for spoke in spokes]).dropna()
        if len(spokes) < 3 or table.empty:
            return None
        description = "; ".join(
            f"{row}: " + ", ".join(f"{name} {mean:.2f} %" for name, mean in line.items())
            for row, line in table.iterrows()
        )
        panel = (f"Accuracy over {what}", description, partial(draw_radar, table, self.looks))
        return self._picture("groups", [panel], table.index, spokes=what)

    def differences(self) -> Picture | None:
        """The overall differences to the reference, a panel for each of the two averages."""
        panels: list[Panel] = []
        reference = str(self.grid.reference)
        for average in self.grid.overall_means if self.grid.reference is not None else ():
            compared = {row: self.grid.difference(row, average) for row in self.grid.rows if row != reference}
            lines = [(row, d.mean, d.low, d.high) for row, d in compared.items() if d.mean is not None]
            if lines:
                description = "; ".join(
                    f"{row}: {mean:+.2f}" + ("" if low is None else f", interval {low:+.2f} to {high:+.2f}")
                    for row, mean, low, high in lines
                )
                draw = partial(draw_differences, lines, reference=reference)
                panels.append((f"Difference to {reference}, {average.name}", description, draw))
        return self._picture("differences", panels, reference=reference)

    def curves(self) -> Picture | None:
        """Loss and accuracy of each task: on val where the runs had one, with train behind it, else in training."""
        panels: list[Panel] = []
        curves = learning_curves(self.grid)
        for measure, task in itertools.product(("loss", "accuracy"), self.grid.tasks):
            of_task = curves[curves.task == task].set_index("epoch")
            train, val = (
                dict(iter(of_task.dropna(subset=[column]).groupby("method", sort=False)[column]))
                for column in (f"train_{measure}", f"val_{measure}")
            )
            lines, faint = (val, train) if val else (train, {})
            if lines:
                unit, options = (" (%)", {"span": _LEAST_SPAN}) if measure == "accuracy" else ("", {"log": True})
                label = f"{measure} {'on val' if val else 'in training'}{unit}"
                ends = "; ".join(f"{method}: {line.iloc[-1]:.4g}" for method, line in lines.items())
                draw = partial(draw_lines, lines, self.looks, x="epoch", y=label, faint=faint, **options)
                panels.append((f"{task}: {label}", f"at the end {ends}", draw))
        return self._picture("curves", panels, set(curves.method), download=("learning-curves", curves))

    def updates(self, adapters: Adapters) -> Picture | None:
        """Spectra of dW, and its ranks over the depth of the model."""
        if adapters.updates.empty:
            return None
        by_method = dict(iter(adapters.updates.groupby("method", sort=False)))
        ranks = "; ".join(f"{method} {updates.effective.mean():.2f}" for method, updates in by_method.items())
        description = f"mean effective ranks {ranks}"
        spectra = {method: mean_shares(updates) for method, updates in by_method.items()}
        draw = partial(draw_lines, spectra, self.looks, x="index", y="singular value / the largest", log=True)
        panels: list[Panel] = [("Spectrum of dW", description, draw)]
        for measure in ("effective", "stable"):
            depths = {method: updates.groupby("block")[measure].mean() for method, updates in by_method.items()}
            lines = {method: depth for method, depth in depths.items() if len(depth)}
            if lines:
                draw = partial(draw_lines, lines, self.looks, x="block", y=f"{measure} rank", marked=True, span=0)
                panels.append((f"{measure.capitalize()} rank of dW by block", description, draw))
        table = rank_table(adapters, self.grid)
        return self._picture("updates", panels, by_method, table, ("updates", update_rows(adapters)))

    def masks(self, adapters: Adapters) -> Picture | None:
        """The first masks of each method, with how much of the weights they cover and share."""
        panels: list[Panel] = []
        for method, masks in adapters.masks.items():
            name, mask = masks.example
            description = f"{masks.branches} branches use {100 * masks.covered:.1f} % of the entries"
            panels.append((method, description, partial(draw_mask, name.removesuffix(".mask"), mask, width=5.2)))
        return self._picture("masks", panels, numbers=mask_table(adapters, self.grid))

    def _picture(
        self,
        name: str,
        panels: Sequence[Panel],
        legend: Collection[str] = (),
        numbers: ReportTable | None = None,
        download: tuple[str, pd.DataFrame] | None = None,
        **values: str,
    ) -> Picture | None:
        """A picture with its title and words in texts.yaml, its methods in their order; None without anything to show.

        Args:
            download: name and content of a csv file.
        """
        if not panels and not (numbers and numbers.rows):
            return None
        title, text = (words.format(**values) for words in read_words("texts.yaml")["pictures"][name].values())
        key, link = f"{self.grid.key}-{name}", None
        with styled():
            drawn = [
                (panel, to_svg(draw(), prefix=f"{key}-{place}", label=f"{panel}. {description}"))
                for place, (panel, description, draw) in enumerate(panels)
            ]
            shown = [
                (swatch(look, prefix=f"{key}-key-{place}"), row)
                for place, (row, look) in enumerate(self.looks.items())
                if row in legend
            ]
        if download is not None:
            content = download[1].map(csv_cell).to_csv(index=False, float_format="%.5g").encode()
            link = (f"{self.grid.key}-{download[0]}.csv", data_uri("text/csv;charset=utf-8", content))
        return Picture(key, title, text, drawn, shown, numbers, link)


def learning_curves(grid: Grid) -> pd.DataFrame:
    """A line for each method, task and epoch with the means over the finished seeds, of epochs that all of them have.

    The columns are method, task, seeds, epoch and those of summary.csv; NaN where a run of the cell has no number.
    """
    names = ["method", "task", "seeds", "epoch", *_CURVES]
    curves = []
    for row, outcomes in grid.rows.items():
        for task in grid.tasks:
            finished = [o for o in outcomes if o.trial.task == task and o.result is not None]
            tables = [table for table in map(_summary, finished) if len(table)]
            if tables:
                # sums over the seeds: NaN in all columns where one lacks the epoch, in one where it lacks the number
                mean = sum(tables[1:], start=tables[0]).dropna(how="all") / len(tables)
                curves.append(mean.reset_index().assign(method=row, task=task, seeds=len(tables))[names])
    return pd.concat(curves) if curves else pd.DataFrame(columns=names)


def _summary(outcome: Outcome) -> pd.DataFrame:
    """The numbers of summary.csv by epoch; no line where it is missing or damaged."""
    try:
        table = pd.read_csv(outcome.folder / "summary.csv").set_index("epoch").reindex(columns=_CURVES)
        return table.astype(float)
    except (OSError, ValueError, KeyError, TypeError):
        return pd.DataFrame()
