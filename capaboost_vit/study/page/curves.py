"""Learning curves of a comparison: the mean over seeds of what summary.csv says."""

from __future__ import annotations

import functools
import operator

import pandas as pd

from ..outcomes import Outcome
from .grid import Grid

COLUMNS = ("train_loss", "train_accuracy", "val_accuracy")


def learning_curves(grid: Grid) -> pd.DataFrame:
    """A line for each method, task and epoch with the means over the finished seeds, of epochs that all of them have.

    The columns are method, task, seeds, epoch and those of summary.csv; NaN where a run of the cell has no number.
    """
    names = ["method", "task", "seeds", "epoch", *COLUMNS]
    curves = []
    for row, outcomes in grid.rows.items():
        for task in grid.tasks:
            finished = [o for o in outcomes if o.trial.task == task and o.result is not None]
            tables = [table for table in map(_summary, finished) if len(table)]
            if tables:
                # sums over the seeds: NaN in all columns where one lacks the epoch, in one where it lacks the number
                mean = functools.reduce(operator.add, tables).dropna(how="all") / len(tables)
                curves.append(mean.reset_index().assign(method=row, task=task, seeds=len(tables))[names])
    return pd.concat(curves) if curves else pd.DataFrame(columns=names)


def _summary(outcome: Outcome) -> pd.DataFrame:
    """The numbers of summary.csv by epoch; no line where it is missing or damaged."""
    try:
        table = pd.read_csv(outcome.folder / "summary.csv").set_index("epoch").reindex(columns=list(COLUMNS))
        return table.astype(float)
    except (OSError, ValueError, KeyError, TypeError):
        return pd.DataFrame()
