"""Accuracies by method and task: means and spreads over seeds, and averages over tasks that are never incomplete."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..trial import Trial
from .outcomes import Outcome


@dataclass(frozen=True)
class Cell:
    """The accuracies of one method on one task, in per cent by seed, and the seeds that were planned."""

    values: Mapping[int, float]
    planned: tuple[int, ...]

    @property
    def complete(self) -> bool:
        """Whether every planned seed is there."""
        return bool(self.planned) and all(seed in self.values for seed in self.planned)

    def lacking(self) -> str:
        """How much of it is there: `2 of 5 seeds`."""
        return f"{len(self.values)} of {len(self.planned)} seeds"


@dataclass(frozen=True)
class Summary:
    """Mean and sample standard deviation over seeds; no mean where something is lacking.

    Args:
        spread: None for a single seed.
        values: by seed.
        lacking: what is missing, in words.
    """

    mean: float | None
    spread: float | None
    values: Mapping[int, float]
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Average:
    """A weighted mean over tasks; the weights, by task, add up to one."""

    name: str
    weights: Mapping[str, float]


class Grid:
    """The cells of one part of a study, rows by methods and columns by tasks.

    The seeds that are planned for a method are those of all its trials; the tasks those of all methods. So a cell that
    nobody has planned is missing like one that is not finished.
    """

    def __init__(self, outcomes: Sequence[Outcome]) -> None:
        first: dict[str, Trial] = {}
        for outcome in outcomes:
            first.setdefault(outcome.trial.task, outcome.trial)
        order = list(dict.fromkeys(trial.group for trial in first.values()))
        self.tasks = dict(
            sorted(first.items(), key=lambda item: order.index(item[1].group))
        )  # by group, else as planned
        self.rows: dict[str, list[Outcome]] = defaultdict(list)
        for outcome in outcomes:
            self.rows[outcome.row].append(outcome)
        self.seeds = {row: tuple(sorted({o.trial.seed for o in found})) for row, found in self.rows.items()}
        self.cells = {(row, task): self._cell(row, task) for row in self.rows for task in self.tasks}
        self.averages = averages(self.tasks)

    def _cell(self, row: str, task: str) -> Cell:
        values = {
            o.trial.seed: float(o.result["test_accuracy"])
            for o in self.rows[row]
            if o.trial.task == task and o.result is not None
        }
        return Cell(dict(sorted(values.items())), self.seeds[row])

    def one(self, row: str, task: str) -> Summary:
        """A cell; its mean is that of the seeds that are there, and `lacking` says if some are not."""
        cell = self.cells[row, task]
        return _summary(cell.values, () if cell.complete else (cell.lacking(),))

    def mean_of(self, row: str, average: Average) -> Summary:
        """The average in each seed, then mean and spread over the seeds; nothing while a cell is incomplete."""
        cells = {task: self.cells[row, task] for task in average.weights}
        lacking = tuple(f"{task} ({cell.lacking()})" for task, cell in cells.items() if not cell.complete)
        if lacking:
            return Summary(None, None, {}, lacking)
        values = {
            seed: sum(weight * cells[task].values[seed] for task, weight in average.weights.items())
            for seed in self.seeds[row]
        }
        return _summary(values, ())


def averages(tasks: Mapping[str, Trial]) -> list[Average]:
    """What is averaged over: each group, the means of the groups, and all tasks; groups where every task has one."""
    groups: dict[str, list[str]] = defaultdict(list)
    for task, trial in tasks.items():
        groups[trial.group].append(task)
    found = []
    if "" not in groups and len(groups) > 1:
        found = [Average(name, {task: 1 / len(inside) for task in inside}) for name, inside in groups.items()]
        weights = {task: 1 / (len(groups) * len(inside)) for inside in groups.values() for task in inside}
        found.append(Average(f"mean of {len(groups)} groups", weights))
    if len(tasks) > 1:
        found.append(Average(f"mean of {len(tasks)} tasks", dict.fromkeys(tasks, 1 / len(tasks))))
    return found


def _summary(values: Mapping[int, float], lacking: tuple[str, ...]) -> Summary:
    numbers = list(values.values())
    mean = statistics.fmean(numbers) if numbers else None
    return Summary(mean, statistics.stdev(numbers) if len(numbers) > 1 else None, values, lacking)
