"""Methods compared with a reference, seed by seed."""

from __future__ import annotations

from collections.abc import Sequence

from .grid import Average, Grid, Score

RESAMPLES = 9999
LEVEL = 0.95
_SEED = 0


def compare(grid: Grid, row: str, reference: str, column: Average) -> Score:
    """Accuracy of a method minus the reference's, in points: the weighted mean over tasks of the means over seeds.

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
        return Score(seeds=fewest, lacking=lacking)
    mean = sum(column.weights[task] * sum(sample) / len(sample) for task, sample in samples.items())
    low, high = bootstrap(list(samples.values()), list(column.weights.values())) if fewest > 1 else (None, None)
    return Score(mean, low=low, high=high, seeds=fewest, lacking=lacking)


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
