"""Accuracies by method and task: means over seeds, differences to a reference, averages that are never incomplete."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ...core.masking import Masking
from ..outcomes import Comparison, Outcome
from ..trial import Trial

RESAMPLES = 9999
FEWEST = 3  # seeds of an interval: of two it would be these two
LEVEL = 0.95
_SEED = 0


@dataclass(frozen=True)
class Score:
    """A mean over seeds, of accuracies or of their differences; without one where something is lacking.

    Args:
        spread: the sample standard deviation; None for a single seed.
        low, high: ends of the 95 % interval of a difference; None with fewer than three seeds.
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
        groups: dict[str, dict[str, Trial]] = {}
        for task, trial in first.items():
            groups.setdefault(trial.group, {})[task] = trial
        self.tasks = {task: trial for inside in groups.values() for task, trial in inside.items()}
        names = ("test_accuracy", "train_seconds", "memory_mb")
        self.runs = pd.DataFrame(
            [(o.row, o.trial.seed, o.trial.task, *((o.result or {}).get(name) for name in names)) for o in outcomes],
            columns=["row", "seed", "task", *names],
        ).astype(dict.fromkeys(names, float))
        self.accuracy = (
            self.runs.groupby(["row", "seed", "task"])["test_accuracy"].last().unstack("task")[[*self.tasks]]
        )
        self.reference = plain_lora(self.rows) if reference is None else reference if reference in self.rows else None
        self.group_means, self.overall_means = _averages(groups)
        self.averages = [*self.group_means, *self.overall_means]
        self.of_tasks = [Average(task, {task: 1.0}, trial) for task, trial in self.tasks.items()]
        self.columns = [*self.averages, *self.of_tasks]
        # by method, column, and whether that is a task: intervals take a while, and tables, drawings and csv show them
        self.differences: dict[tuple[str, str, bool], Score] = {}

    def score(self, row: str, column: Average) -> Score:
        """Of a task the mean over the seeds that are there; of an average the mean and spread of that of each seed.

        `lacking` says what is missing; an average of which anything is missing has no mean.
        """
        table = self.accuracy.loc[row, list(column.weights)]
        lacking = _lacking(table, len(table), "seeds", column)
        if lacking and column.trial is None:
            return Score(lacking=lacking)
        values = (table @ pd.Series(column.weights)).dropna()
        mean, spread = (float(number) if pd.notna(number) else None for number in (values.mean(), values.std()))
        return Score(mean, spread, seeds=len(values), lacking=lacking)

    def difference(self, row: str, column: Average) -> Score:
        """Accuracy of a method minus the reference's, in points: the weighted mean over tasks of the means over seeds.

        One task has that of the pairs that are there; an average has none while a task lacks a pair of planned seeds.
        """
        key = row, column.name, column.trial is not None
        if key not in self.differences:
            self.differences[key] = self._difference(row, column)
        return self.differences[key]

    def _difference(self, row: str, column: Average) -> Score:
        ours, theirs = self.accuracy.loc[row], self.accuracy.loc[self.reference]
        pairs = (ours - theirs)[list(column.weights)]
        lacking = _lacking(pairs, len(ours.index.intersection(theirs.index)), "pairs", column)
        fewest = int(pairs.count().min())
        if not fewest or (lacking and column.trial is None):
            return Score(seeds=fewest, lacking=lacking if column.trial is None else ("no common seed",))
        mean = float(pairs.mean() @ pd.Series(column.weights))
        low, high = bootstrap([pairs[task].dropna() for task in pairs], [*column.weights.values()])
        return Score(mean, low=low, high=high, seeds=fewest, lacking=lacking)

    def first_runs(self) -> list[Outcome]:
        """The first finished seed of each method and task that was computed in this study, in the order of both."""
        first: dict[tuple[str, str], Outcome] = {}
        for outcome in sorted(self.part.outcomes, key=lambda o: o.trial.seed):
            if outcome.result is not None and outcome.taken_from is None:
                first.setdefault((outcome.row, outcome.trial.task), outcome)
        return [first[cell] for cell in itertools.product(self.rows, self.tasks) if cell in first]


def _averages(groups: Mapping[str, Mapping[str, Trial]]) -> tuple[list[Average], list[Average]]:
    """The mean of each group, where there are several and every task has one; those of all groups and of all tasks."""
    of_groups, overall = [], []
    tasks = [task for inside in groups.values() for task in inside]
    if "" not in groups and len(groups) > 1:
        of_groups = [Average(name, dict.fromkeys(inside, 1 / len(inside))) for name, inside in groups.items()]
        weights = {task: 1 / (len(groups) * len(inside)) for inside in groups.values() for task in inside}
        overall.append(Average(f"mean of {len(groups)} groups", weights))
    if len(tasks) > 1:
        overall.append(Average(f"mean of {len(tasks)} tasks", dict.fromkeys(tasks, 1 / len(tasks))))
    return of_groups, overall


def _lacking(table: pd.DataFrame, planned: int, what: str, column: Average) -> tuple[str, ...]:
    """What is missing of so many planned seeds or pairs of each task, which is named where there are several."""
    parts = {task: f"{n} of {planned} {what}" for task, n in table.count().items() if n < max(1, planned)}
    return tuple(part if column.trial is not None else f"{task} ({part})" for task, part in parts.items())


def bootstrap(samples: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float | None, float | None]:
    """Percentile interval (95 %) of `sum_t w_t mean(sample_t)`: each sample is resampled by itself, 9,999 times.

    Seeded, so the same numbers give the same interval. Tasks are fixed: it says how sure the mean is on these tasks,
    not on others. (None, None) where a sample has fewer than three. Source: Efron and Tibshirani 1993.
    """
    import numpy as np
    from scipy import stats

    if min(map(len, samples)) < FEWEST:
        return None, None

    def statistic(*data: np.ndarray, axis: int) -> np.ndarray:
        total: np.ndarray = sum(w * sample.mean(axis) for w, sample in zip(weights, data, strict=True))
        return total

    interval = stats.bootstrap(
        [np.asarray(sample, dtype=np.float64) for sample in samples],
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def plain_lora(rows: Mapping[str, Sequence[Outcome]]) -> str | None:
    """The row to compare with: the one called `lora`, else the first that is LoRA with one branch and all entries."""
    if "lora" in rows:
        return "lora"
    return next((row for row, outcomes in rows.items() if all(_is_plain_lora(o) for o in outcomes)), None)


# options that make LoRA with one branch another method
_PLAIN = {"dropout": 0, "rank_dropout": 0, "loraplus_lr_ratio": 1, "share_blocks": 1, "share_shapes": False}


def _is_plain_lora(outcome: Outcome) -> bool:
    method = outcome.trial.config.get("method") or {}
    if method.get("name") != "lora" or method.get("num_branches") != 1:
        return False
    if any(method.get(name, value) != value for name, value in _PLAIN.items()):
        return False
    pattern = method.get("pattern", "random")
    return pattern != "sign" and Masking(1, method.get("density"), pattern).kept == 1
