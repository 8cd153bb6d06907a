"""Learning curves of a part: the mean over seeds of what summary.csv says."""

from __future__ import annotations

import csv
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .grid import Grid
from .outcomes import Outcome

COLUMNS = ("train_loss", "train_accuracy", "val_accuracy")


@dataclass(frozen=True)
class Curve:
    """Means over seeds by epoch; a column that the runs do not have is not there."""

    row: str
    task: str
    seeds: int
    epochs: tuple[int, ...]
    columns: dict[str, tuple[float, ...]]


def learning_curves(grid: Grid) -> list[Curve]:
    """A curve for each method and task with finished runs; epochs that all of them have."""
    found = []
    for row, outcomes in grid.rows.items():
        for task in grid.tasks:
            tables = [_table(o) for o in outcomes if o.trial.task == task and o.result is not None]
            tables = [table for table in tables if table]
            if tables:
                found.append(_mean(row, task, tables))
    return found


def curve_rows(curves: Sequence[Curve]) -> Iterator[Sequence[object]]:
    """All points, for csv."""
    yield ("method", "task", "seeds", "epoch", *COLUMNS)
    for curve in curves:
        for i, epoch in enumerate(curve.epochs):
            values = (f"{curve.columns[name][i]:.5g}" if name in curve.columns else None for name in COLUMNS)
            yield (curve.row, curve.task, curve.seeds, epoch, *values)


def _mean(row: str, task: str, tables: Sequence[dict[int, dict[str, float]]]) -> Curve:
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    columns = {
        name: tuple(statistics.fmean(table[epoch][name] for table in tables) for epoch in epochs)
        for name in COLUMNS
        if all(name in table[epoch] for table in tables for epoch in epochs)
    }
    return Curve(row, task, len(tables), tuple(epochs), columns)


def _table(outcome: Outcome) -> dict[int, dict[str, float]]:
    """The rows of summary.csv by epoch; none where it is missing or damaged."""
    table: dict[int, dict[str, float]] = defaultdict(dict)
    try:
        with open(outcome.folder / "summary.csv", newline="", encoding="utf-8") as file:
            for line in csv.DictReader(file):
                values = {name: float(line[name]) for name in COLUMNS if line.get(name)}
                table[int(line["epoch"])] = values
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return dict(table)
