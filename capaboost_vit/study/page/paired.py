"""Methods compared with a reference, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ...core.masking import resolve_density
from .grid import Average, Grid
from .outcomes import Outcome

RESAMPLES = 9999
LEVEL = 0.95
_SEED = 0


@dataclass(frozen=True)
class Difference:
    """Accuracy of a method minus that of the reference, in points, over the seeds that both have.

    Args:
        mean: None where something is lacking.
        low, high: ends of the 95 % interval; None with fewer than two seeds.
        seeds: pairs of each task, the smallest number of all.
        lacking: what is missing, in words.
    """

    mean: float | None
    low: float | None
    high: float | None
    seeds: int
    lacking: tuple[str, ...] = ()

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of zero, else 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)


def compare(grid: Grid, row: str, reference: str, column: Average) -> Difference:
    """The weighted mean over tasks of the means over seeds, and its interval.

    One task has that of the pairs that are there; an average has none while a task lacks a pair of planned seeds.
    """
    table = grid.differences(row, reference)
    samples = {task: table[task].dropna().tolist() for task in column.weights}
    fewest = min(map(len, samples.values()))
    planned = len(grid.accuracy.loc[row].index.intersection(grid.accuracy.loc[reference].index))
    few = {task: f"{len(s)} of {planned} pairs" for task, s in samples.items() if len(s) < max(1, planned)}
    if column.trial is None:
        lacking = tuple(f"{task} ({pairs})" for task, pairs in few.items())
    else:
        lacking = tuple(few.values()) if fewest else ("no common seed",)
    if not fewest or (few and column.trial is None):
        return Difference(None, None, None, fewest, lacking)
    mean = sum(column.weights[task] * sum(sample) / len(sample) for task, sample in samples.items())
    low, high = bootstrap(list(samples.values()), list(column.weights.values())) if fewest > 1 else (None, None)
    return Difference(mean, low, high, fewest, lacking)


def bootstrap(samples: Sequence[Sequence[float]], weights: Sequence[float]) -> tuple[float, float]:
    """Percentile interval (95 %) of `sum_t w_t mean(sample_t)`: each sample is resampled by itself, 9,999 times.

    Seeded, so the same numbers give the same interval. Tasks are fixed: it says how sure the mean is on these tasks,
    not on others. Each sample needs two numbers. Source: Efron and Tibshirani 1993; scipy.stats.bootstrap.
    """
    import numpy as np
    from scipy import stats

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


def _is_plain_lora(outcome: Outcome) -> bool:
    method = outcome.trial.config.get("method") or {}
    if method.get("name") != "lora" or method.get("num_branches") != 1 or method.get("dropout"):
        return False
    pattern = method.get("pattern", "random")
    return pattern != "sign" and resolve_density(pattern, method.get("density"), 1) == 1
