"""Accuracies by method and task: means and spreads over seeds, and averages over tasks that are never incomplete."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ...core.masking import resolve_density
from ..outcomes import Comparison, Outcome
from ..trial import Trial


@dataclass(frozen=True)
class Score:
    """A mean over seeds, of accuracies or of their differences; without one where something is lacking.

    Args:
        spread: the sample standard deviation; None for a single seed.
        low, high: ends of the 95 % interval of a difference; None with fewer than two seeds.
        seeds: how many there are; pairs of each task, the smallest number of all.
        lacking: what is missing, in words.
    """

    mean: float | None = None
    spread: float | None = None
    low: float | None = None
    high: float | None = None
    seeds: int = 0
    lacking: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of zero, else 0."""
        return 0 if self.low is None or self.high is None else int(self.low > 0) - int(self.high < 0)


@dataclass(frozen=True)
class Average:
    """A weighted mean over tasks; the weights, by task, add up to one. A column of one task alone has its `trial`."""

    name: str
    weights: Mapping[str, float]
    trial: Trial | None = None


class Grid:
    """The accuracies of one comparison: `accuracy` has a row per (method, seed), a column per task; NaN is missing.

    The seeds that are planned for a method are those of all its trials; the tasks those of all methods. So a cell that
    nobody has planned is missing like one that is not finished. `runs` has a line per trial, with what it cost.

    Args:
        key: begins the ids of its tables and pictures.
        reference: the method to compare with, if it is there; None takes the first that is plain LoRA.
    """

    def __init__(self, part: Comparison, *, key: str = "", reference: str | None = None) -> None:
        self.part, self.key, outcomes = part, key, part.outcomes
        first: dict[str, Trial] = {}
        self.rows: dict[str, list[Outcome]] = {}
        for outcome in outcomes:
            first.setdefault(outcome.trial.task, outcome.trial)
            self.rows.setdefault(outcome.row, []).append(outcome)
        order = list(dict.fromkeys(trial.group for trial in first.values()))
        # by group, else as planned
        self.tasks = dict(sorted(first.items(), key=lambda item: order.index(item[1].group)))
        names = ("test_accuracy", "train_seconds", "memory_mb")
        self.runs = pd.DataFrame(
            [(o.row, o.trial.seed, o.trial.task, *((o.result or {}).get(name) for name in names)) for o in outcomes],
            columns=["row", "seed", "task", *names],
        ).astype(dict.fromkeys(names, float))
        self.accuracy = (
            self.runs.groupby(["row", "seed", "task"])["test_accuracy"].last().unstack("task")[[*self.tasks]]
        )
        self.reference = plain_lora(self.rows) if reference is None else reference if reference in self.rows else None
        self.averages = averages(self.tasks)
        self.overall = self.averages[-1] if self.averages else Average("", dict.fromkeys(self.tasks, 1.0))
        self.columns = [*self.averages, *(Average(task, {task: 1.0}, trial) for task, trial in self.tasks.items())]

    def score(self, row: str, column: Average) -> Score:
        """Of a task the mean over the seeds that are there; of an average the mean and spread of that of each seed.

        `lacking` says what is missing; an average of which anything is missing has no mean.
        """
        table = self.accuracy.loc[row, list(column.weights)]
        parts = {task: f"{n} of {len(table)} seeds" for task, n in table.count().items() if n < len(table)}
        if column.trial is not None:
            return _score(table[column.name].dropna(), tuple(parts.values()))
        if parts:
            return Score(lacking=tuple(f"{task} ({there})" for task, there in parts.items()))
        return _score(table @ pd.Series(column.weights), ())

    def differences(self, row: str, reference: str) -> pd.DataFrame:
        """Accuracy of a method minus that of another, by seed and task; NaN where one of the two is missing."""
        return self.accuracy.loc[row] - self.accuracy.loc[reference]

    def first_runs(self) -> list[Outcome]:
        """The first finished seed of each method and task that was computed in this study, by task."""
        first: dict[tuple[str, str], Outcome] = {}
        for row, outcomes in self.rows.items():
            for outcome in sorted(outcomes, key=lambda o: o.trial.seed):
                if outcome.result is not None and outcome.taken_from is None:
                    first.setdefault((outcome.trial.task, row), outcome)
        order = list(self.tasks)
        return sorted(first.values(), key=lambda o: order.index(o.trial.task))


def averages(tasks: Mapping[str, Trial]) -> list[Average]:
    """What is averaged over: each group, the means of the groups, and all tasks; groups where every task has one."""
    groups: dict[str, list[str]] = {}
    for task, trial in tasks.items():
        groups.setdefault(trial.group, []).append(task)
    columns = []
    if "" not in groups and len(groups) > 1:
        columns = [Average(name, {task: 1 / len(inside) for task in inside}) for name, inside in groups.items()]
        weights = {task: 1 / (len(groups) * len(inside)) for inside in groups.values() for task in inside}
        columns.append(Average(f"mean of {len(groups)} groups", weights))
    if len(tasks) > 1:
        columns.append(Average(f"mean of {len(tasks)} tasks", dict.fromkeys(tasks, 1 / len(tasks))))
    return columns


def _score(values: pd.Series, lacking: tuple[str, ...]) -> Score:
    mean, spread = (float(number) if pd.notna(number) else None for number in (values.mean(), values.std()))
    return Score(mean, spread, seeds=len(values), lacking=lacking)


def plain_lora(rows: Mapping[str, Sequence[Outcome]]) -> str | None:
    """The row to compare with: the one called `lora`, else the first that is LoRA with one branch and all entries."""
    if "lora" in rows:
        return "lora"
    return next((row for row, outcomes in rows.items() if all(_is_plain_lora(o) for o in outcomes)), None)


def _is_plain_lora(outcome: Outcome) -> bool:
    method = outcome.trial.config.get("method") or {}
    if method.get("name") != "lora" or method.get("num_branches") != 1 or method.get("dropout"):
        return False
    pattern = method.get("pattern", "random")
    return pattern != "sign" and resolve_density(pattern, method.get("density"), 1) == 1
