"""From predictions to the numbers of text tasks, in percent, as GLUE's tables print them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from .tasks import GLUE, TASKS

_AVERAGES = {"f1": "binary", "macro_f1": "macro", "micro_f1": "micro"}  # of scikit-learn


def scores(metrics: Sequence[str], predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """100 x each metric of predictions (B,) and targets (B,), in the order asked for.

    Of classes: `accuracy`; `f1` of class 1 (two classes only); `matthews`; `micro_f1`, which is the accuracy where each
    example has one class; `macro_f1`, the mean of the F1 of the classes that occur in targets or predictions (a class
    that never occurs does not count, as in scikit-learn). Of numbers: `pearson`, `spearman`.
    A ratio without a value is 0, without a warning: the F1 of a class that is never predicted, or of one without an
    example; `matthews` of constant predictions or targets; a correlation of constants, or of a single example.

    Raises:
        ValueError: no example, or a prediction that is not finite.
    """
    if len(targets) == 0:
        raise ValueError("no example to score: the split is empty")
    predicted, expected = (values.detach().cpu().double().numpy() for values in (predictions, targets))
    wrong = np.flatnonzero(~np.isfinite(predicted))
    if len(wrong):
        raise ValueError(
            f"prediction {wrong[0]} is {predicted[wrong[0]]}, as {len(wrong)} of {len(predicted)}: did it diverge?"
        )
    return {metric: 100 * _metric(metric, predicted, expected) for metric in metrics}


def glue_average(rows: Mapping[str, Mapping[str, float]]) -> float | None:
    """The mean of GLUE's 11 numbers; None as long as one is missing.

    They are cola matthews; sst2, mnli, qnli, rte accuracy; mrpc and qqp accuracy and f1; stsb pearson and spearman. So
    a task with two metrics counts twice. It is not the mean over tasks that GLUE's leaderboard shows. `rows` holds
    metrics by the name of the task; others are ignored.
    """
    wanted = [(task, metric) for task in GLUE for metric in TASKS[task].metrics]
    if any(metric not in rows.get(task, {}) for task, metric in wanted):
        return None
    return math.fsum(rows[task][metric] for task, metric in wanted) / len(wanted)


def _metric(name: str, predictions: np.ndarray, targets: np.ndarray) -> float:
    if name == "accuracy":
        return float((predictions == targets).mean())
    from scipy import stats
    from sklearn.metrics import f1_score, matthews_corrcoef

    if name in _AVERAGES:
        return float(f1_score(targets, predictions, average=_AVERAGES[name], zero_division=0))
    if any((values == values[0]).all() for values in (predictions, targets)):
        return 0.0  # scikit-learn's value of matthews too, but it warns where both are the same constant
    if name == "matthews":
        return float(matthews_corrcoef(targets, predictions))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that numbers are nearly constant
        value = float({"pearson": stats.pearsonr, "spearman": stats.spearmanr}[name](predictions, targets).statistic)
    return 0.0 if math.isnan(value) else value  # constant to rounding
