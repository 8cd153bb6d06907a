"""From predictions to the numbers of text tasks, in percent, as GLUE's tables print them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from ..io.options import suggest
from .tasks import GLUE, TASKS

_OF_CLASSES = ("accuracy", "f1", "matthews", "macro_f1", "micro_f1")
_OF_NUMBERS = ("pearson", "spearman")
_AVERAGES = {"f1": "binary", "macro_f1": "macro", "micro_f1": "micro"}  # of scikit-learn


def scores(
    metrics: Sequence[str], predictions: Tensor, targets: Tensor, *, num_classes: int | None
) -> dict[str, float]:
    """100 x each metric, in the order asked for.

    Of classes: `accuracy`; `f1` of class 1 (two classes only); `matthews`; `micro_f1`, which is the accuracy where each
    example has one class; `macro_f1`, the mean of the F1 of the classes that occur in targets or predictions (a class
    that never occurs does not count, as in scikit-learn). Of numbers: `pearson`, `spearman`.
    A ratio without a value is 0, without a warning: the F1 of a class that is never predicted, or of one without an
    example; `matthews` of constant predictions or targets; a correlation of constants, or of a single example.

    Args:
        metrics: names.
        predictions: (B,) class numbers, or numbers for a regression.
        targets: (B,) of the same kind.
        num_classes: None for a regression.

    Raises:
        ValueError: an unknown metric, or one of the other kind of task; no example; shapes that differ; a number that
            is not finite; a class that is not there.
    """
    for metric in metrics:
        _refuse(metric, num_classes)
    if predictions.ndim != 1 or predictions.shape != targets.shape:
        raise ValueError(
            f"expected one prediction for each target, got shapes {tuple(predictions.shape)} and {tuple(targets.shape)}"
        )
    if len(targets) == 0:
        raise ValueError("no example to score: the split is empty")
    given = [_values(what, values, num_classes) for what, values in (("prediction", predictions), ("target", targets))]
    return {metric: 100 * _metric(metric, *given) for metric in metrics}


def glue_average(rows: Mapping[str, Mapping[str, float]]) -> float | None:
    """The mean of GLUE's 11 numbers; None as long as one is missing.

    They are cola matthews; sst2, mnli, qnli, rte accuracy; mrpc and qqp accuracy and f1; stsb pearson and spearman. So
    a task with two metrics counts twice. It is not the mean over tasks that GLUE's leaderboard shows.

    Args:
        rows: by the name of the task, its metrics; others are ignored.
    """
    wanted = [(task, metric) for task in GLUE for metric in TASKS[task].metrics]
    if any(metric not in rows.get(task, {}) for task, metric in wanted):
        return None
    return math.fsum(rows[task][metric] for task, metric in wanted) / len(wanted)


def _refuse(metric: str, num_classes: int | None) -> None:
    known = [*_OF_CLASSES, *_OF_NUMBERS]
    if metric not in known:
        raise ValueError(f"no metric {metric!r}{suggest(metric, known, cutoff=0)}; there are: {', '.join(known)}")
    if (metric in _OF_NUMBERS) != (num_classes is None):
        kind = "a regression" if num_classes is None else f"{num_classes} classes"
        fitting = _OF_NUMBERS if num_classes is None else _OF_CLASSES
        raise ValueError(f"{metric} is not a metric of {kind}: take {', '.join(fitting)}")
    if metric == "f1" and num_classes != 2:
        raise ValueError(f"f1 is that of class 1 of 2, but there are {num_classes} classes: take macro_f1 or micro_f1")


def _values(what: str, values: Tensor, num_classes: int | None) -> np.ndarray:
    """As float64 for a regression, as int64 for classes."""
    array = values.detach().cpu().double().numpy()
    wrong = np.flatnonzero(~np.isfinite(array))
    if len(wrong):
        raise ValueError(f"{what} {wrong[0]} is {array[wrong[0]]}, as {len(wrong)} of {len(array)}: did it diverge?")
    if num_classes is None:
        return array
    classes = array.astype(np.int64)
    wrong = np.flatnonzero((classes != array) | (classes < 0) | (classes >= num_classes))
    if len(wrong):
        raise ValueError(f"{what} {wrong[0]} is {array[wrong[0]]:g}, expected a class from 0 to {num_classes - 1}")
    return classes


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
