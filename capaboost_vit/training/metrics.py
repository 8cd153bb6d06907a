"""Metrics of held-out examples, by scikit-learn and scipy: shares in per cent, errors in the unit of the targets."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

OF_CLASSES = ("accuracy", "balanced_accuracy", "f1", "macro_f1", "matthews", "micro_f1")
TAG_SCORES = ("mAP", "macro_f1", "micro_f1", "exact_match")
OF_NUMBERS = ("mae", "pearson", "r2", "rmse", "spearman")
_AVERAGES = {"f1": "binary", "macro_f1": "macro", "micro_f1": "micro"}  # of scikit-learn
NOT_IN_PER_CENT = {"mae", "rmse", "r2"}  # no shares


def scores(
    metrics: Sequence[str], predictions: Tensor, targets: Tensor, weights: Tensor | None = None
) -> dict[str, float]:
    """Each metric of predictions (B,) and targets (B,) in per cent, by name in the order asked for.

    Of classes: `accuracy`; `balanced_accuracy`, the mean of the recall of the classes that occur in targets; `f1` of
    class 1 (two classes only); `matthews`; `micro_f1`, which is the accuracy where each example has one class;
    `macro_f1`, the mean of the F1 of the classes that occur in targets or predictions (a class that never occurs does
    not count, as in scikit-learn). Of numbers: `pearson`, `spearman`; and, not in per cent, `mae` (mean absolute error)
    and `rmse` (root of the mean square error) in the unit of the targets, `r2` (1 - residual / total sum of squares).
    A ratio without a value is 0, without a warning: the F1 of a class that is never predicted, or of one without an
    example; `matthews` of constant predictions or targets; a correlation of constants, `r2` of constant targets, and
    both of a single example.

    Args:
        weights: how often each pair occurs, of classes; None: once.

    Raises:
        ValueError: no example, a prediction that is not finite, or a metric of another name.
    """
    if len(targets) == 0:
        raise ValueError("no example to score: the split is empty")
    predicted, expected = (values.detach().cpu().double().numpy() for values in (predictions, targets))
    wrong = np.flatnonzero(~np.isfinite(predicted))
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} of {len(predicted)} predictions are not finite, such as {predicted[wrong[0]]} for example "
            f"{wrong[0]}: training has diverged, take a smaller --lr"
        )
    counts = None if weights is None else weights.cpu().numpy()
    found = {name: _metric(name, predicted, expected, counts) for name in metrics}
    return {name: value if name in NOT_IN_PER_CENT else 100 * value for name, value in found.items()}


def confusion_scores(metrics: Sequence[str], confusion: Tensor) -> dict[str, float]:
    """The same of a confusion matrix (C, C), sparse and coalesced: rows are labels, columns predictions."""
    labels, predictions = confusion.indices()
    return scores(metrics, predictions, labels, confusion.values())


def class_scores(confusion: Tensor) -> dict[str, list[float]]:
    """`precision`, `recall`, `f1` (per cent) and `support` (labels) of each class of a sparse confusion matrix (C, C).

    What has no value is 0: the precision of a class that is never predicted, the recall of one without an example.
    """
    from sklearn.metrics import precision_recall_fscore_support

    labels, predictions = confusion.indices().numpy()
    *shares, support = precision_recall_fscore_support(
        labels, predictions, labels=range(len(confusion)), sample_weight=confusion.values().numpy(), zero_division=0
    )
    columns = {
        name: (100 * values).tolist() for name, values in zip(("precision", "recall", "f1"), shares, strict=True)
    }
    return {**columns, "support": support.astype(int).tolist()}


def class_table(confusion: Tensor, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of `class` and its `class_scores`, of the classes that occur as a label or as a prediction."""
    columns = class_scores(confusion)
    return [
        {"class": classes[i], **{name: values[i] for name, values in columns.items()}}
        for i in sorted({*confusion.indices().flatten().tolist()})
    ]


def wilson_interval(right: int, total: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a share, `right` of `total`, in per cent.

    The ends are the p at which |right/total - p| = z sqrt(p (1 - p) / total). Unlike p +- z sqrt(p (1 - p) / total) it
    stays within 0 and 100 and keeps its coverage near them. It is of examples drawn anew, not of other seeds.
    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, 1927.

    Raises:
        ValueError: no example.
    """
    from scipy.stats import binomtest

    if total < 1:
        raise ValueError("no example to score: the split is empty")
    low, high = binomtest(right, total).proportion_ci(confidence, method="wilson")
    return 100 * float(low), 100 * float(high)


def area_under_curve(probabilities: Tensor, labels: Tensor) -> float | None:
    """AUC in per cent: area under the ROC curve of probabilities (B, C) for labels (B,).

    Of two classes that of class 1; of more the mean over classes of the AUC of each against the rest. Classes that no
    example, or each of them, has as its label have none and do not count; None where no class has one.
    """
    from sklearn.metrics import roc_auc_score

    columns, expected = probabilities.numpy().T, labels.numpy()
    classes = [label for label in np.unique(expected) if (expected != label).any()]
    if len(columns) == 2:
        classes = classes[-1:]
    areas = [float(roc_auc_score(expected == label, columns[label])) for label in classes]
    return 100 * math.fsum(areas) / len(areas) if areas else None


def calibration_error(confidences: Tensor, right: Tensor, *, bins: int = 15) -> float:
    """ECE, expected calibration error, in per cent: `sum over bins b of n_b / n * |accuracy_b - confidence_b|`.

    The bins are `bins` intervals (i / bins, (i + 1) / bins] of equal width of the confidence, which is the probability
    of the predicted class; accuracy_b and confidence_b are the means over the n_b examples of a bin.
    Source: Guo et al., On calibration of modern neural networks, 2017.

    Args:
        confidences: (B,) in [0, 1]. right: (B,), whether the predicted class is the label.

    Raises:
        ValueError: no example.
    """
    if len(confidences) == 0:
        raise ValueError("no example to score: the split is empty")
    values = confidences.double().numpy()
    places = np.digitize(values, np.arange(1, bins) / bins, right=True)
    gaps = np.bincount(places, weights=right.double().numpy() - values, minlength=bins)
    return 100 * float(np.abs(gaps).sum()) / len(values)


def average_precision(outputs: Tensor, targets: Tensor) -> float:
    """mAP, mean average precision, in per cent, of outputs (B, C) for targets (B, C) of 0 and 1.

    AP of a class is `sum over thresholds n of (recall_n - recall_(n-1)) * precision_n`, without interpolation; the mean
    is over the classes that at least one example has.

    Raises:
        ValueError: no example has any class.
    """
    from sklearn.metrics import average_precision_score

    present = targets.sum(0) > 0
    if not present.any():
        raise ValueError("no example to score has any class")
    return 100 * float(average_precision_score(targets[:, present].numpy(), outputs[:, present].numpy()))


def tag_scores(logits: Tensor, targets: Tensor, *, threshold: float = 0.5) -> dict[str, float]:
    """Scores in per cent of logits (N, C) for targets (N, C) of 0 and 1.

    `mAP`: mean over the tags that occur of their average precision. A tag counts as predicted where its probability is
    at least the threshold: `macro_f1`, the mean of the F1 of the tags, 0 for one that neither occurs nor is predicted;
    `micro_f1`, the F1 of all decisions; `exact_match`, the share of examples all of whose decisions are right. As in
    scikit-learn.
    """
    from sklearn.metrics import accuracy_score, f1_score

    predicted, expected = (logits.sigmoid() >= threshold).int().numpy(), targets.int().numpy()
    found = {
        "macro_f1": f1_score(expected, predicted, average="macro", zero_division=0),
        "micro_f1": f1_score(expected, predicted, average="micro", zero_division=0),
        "exact_match": accuracy_score(expected, predicted),
    }
    return {"mAP": average_precision(logits, targets), **{name: 100 * float(value) for name, value in found.items()}}


def _metric(name: str, predictions: np.ndarray, targets: np.ndarray, weights: np.ndarray | None) -> float:
    if name == "accuracy":
        return float(np.average(predictions == targets, weights=weights))
    from scipy import stats
    from sklearn import metrics

    if name in _AVERAGES:
        options = {"average": _AVERAGES[name], "sample_weight": weights, "zero_division": 0}
        return float(metrics.f1_score(targets, predictions, **options))
    if name == "balanced_accuracy":  # scikit-learn's own has a matrix with a cell for each pair of classes
        options = {"average": "macro", "sample_weight": weights, "labels": np.unique(targets)}
        return float(metrics.recall_score(targets, predictions, **options))
    if name == "mae":
        return float(metrics.mean_absolute_error(targets, predictions))
    if name == "rmse":
        return float(metrics.root_mean_squared_error(targets, predictions))
    if (targets == targets[0]).all() or (name != "r2" and (predictions == predictions[0]).all()):
        return 0.0  # scikit-learn's value of matthews too, but it warns where both are the same constant
    if name == "r2":
        return float(metrics.r2_score(targets, predictions))
    if name == "matthews":
        return float(metrics.matthews_corrcoef(targets, predictions, sample_weight=weights))
    correlations = {"pearson": stats.pearsonr, "spearman": stats.spearmanr}
    if name not in correlations:
        raise ValueError(f"no metric {name!r}: take one of {', '.join(OF_CLASSES + OF_NUMBERS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that numbers are nearly constant
        value = float(correlations[name](predictions, targets).statistic)
    return 0.0 if math.isnan(value) else value  # constant to rounding
