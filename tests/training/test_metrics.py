"""Metrics: scikit-learn's and scipy's where these have a value, by hand, and what we say where they have none."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sklearn_metrics

from capaboost_vit.training.metrics import (
    area_under_curve,
    average_precision,
    calibration_error,
    class_scores,
    confusion_scores,
    scores,
    wilson_interval,
)

OF_CLASSES = ("accuracy", "f1", "matthews", "macro_f1", "micro_f1", "balanced_accuracy")
NAN, INF = float("nan"), float("inf")


def of_classes(names, predictions, targets):
    return scores(names, torch.tensor(predictions), torch.tensor(targets))


def confusion_of(predictions, targets, num_classes):
    """Sparse, as an evaluation leaves it."""
    dense = sklearn_metrics.confusion_matrix(targets, predictions, labels=range(num_classes))
    return torch.tensor(dense).to_sparse().coalesce()


def of_numbers(predictions, targets):
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (predictions, targets))
    return scores(["pearson", "spearman"], *tensors)


# by hand: 3 true positives, 1 false positive, 2 false negatives, 4 true negatives

PREDICTIONS = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
TARGETS = [1, 1, 1, 0, 1, 1, 0, 0, 0, 0]


def test_numbers_of_two_classes_are_those_of_the_confusion_matrix():
    f1_of_0, f1_of_1 = 8 / 11, 6 / 9
    assert of_classes(OF_CLASSES, PREDICTIONS, TARGETS) == pytest.approx(
        {
            "accuracy": 70,
            "f1": 100 * f1_of_1,
            "matthews": 100 * (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
            "macro_f1": 50 * (f1_of_0 + f1_of_1),
            "micro_f1": 70,
            "balanced_accuracy": 50 * (3 / 5 + 4 / 5),
        }
    )


def test_only_what_was_asked_for_is_given_in_that_order():
    assert list(of_classes(["f1", "accuracy"], PREDICTIONS, TARGETS)) == ["f1", "accuracy"]
    assert of_classes([], PREDICTIONS, TARGETS) == {}


def test_f1_is_that_of_class_1():
    swapped = of_classes(["f1"], [1 - label for label in PREDICTIONS], [1 - label for label in TARGETS])
    assert swapped["f1"] == pytest.approx(800 / 11)


def test_macro_f1_counts_classes_that_occur_in_targets_or_predictions_and_no_other():
    # class 0: F1 1; class 1 is only a target, class 2 only a prediction: 0 each; class 3 is nowhere
    assert of_classes(["macro_f1"], [0, 0, 2], [0, 0, 1])["macro_f1"] == pytest.approx(100 / 3)


def test_correlations_by_hand():
    found = of_numbers([1, 2, 3, 10], [1, 2, 4, 3])
    assert found["spearman"] == pytest.approx(80)  # 1 - 6 * 2 / (4 * 15)
    assert found["pearson"] == pytest.approx(100 * 7 / math.sqrt(50 * 5))
    assert of_numbers([0.0, 1.0, 8.0], [0.0, -1.0, -2.0])["spearman"] == pytest.approx(-100)


# against scikit-learn and scipy


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(2, 5))
def test_classes_agree_with_scikit_learn(data, num_classes):
    pairs = data.draw(st.lists(st.tuples(*[st.integers(0, num_classes - 1)] * 2), min_size=1, max_size=30))
    predictions, targets = zip(*pairs, strict=True)
    names = [name for name in OF_CLASSES if name != "f1" or num_classes == 2]
    found = of_classes(names, list(predictions), list(targets))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        oracle = {
            "accuracy": sklearn_metrics.accuracy_score(targets, predictions),
            "matthews": sklearn_metrics.matthews_corrcoef(targets, predictions),
            "macro_f1": sklearn_metrics.f1_score(targets, predictions, average="macro"),
            "micro_f1": sklearn_metrics.f1_score(targets, predictions, average="micro"),
            "balanced_accuracy": sklearn_metrics.balanced_accuracy_score(targets, predictions),
        }
        if num_classes == 2:
            oracle["f1"] = sklearn_metrics.f1_score(targets, predictions)
    assert found == pytest.approx({name: 100 * value for name, value in oracle.items()}, abs=1e-9)
    assert found["micro_f1"] == pytest.approx(found["accuracy"])
    assert confusion_scores(names, confusion_of(predictions, targets, num_classes)) == pytest.approx(found, abs=1e-9)


finite = st.floats(-1e3, 1e3, width=32)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=1, max_size=30))
def test_numbers_agree_with_scipy_wherever_it_has_a_value(pairs):
    predictions, targets = map(list, zip(*pairs, strict=True))
    found = of_numbers(predictions, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, function in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
            oracle = function(predictions, targets).statistic if len(pairs) > 1 else NAN
            assert found[name] == pytest.approx(0 if math.isnan(oracle) else 100 * oracle, abs=1e-9)
            assert -100 <= found[name] <= 100


def test_spearman_is_the_pearson_of_ranks_with_ties_in_the_middle():
    rng = np.random.default_rng(0)
    predictions, targets = rng.integers(0, 6, 200), rng.random(200)
    ranks = [stats.rankdata(values).tolist() for values in (predictions, targets)]
    assert of_numbers(predictions, targets)["spearman"] == pytest.approx(of_numbers(*ranks)["pearson"])


def test_many_examples_do_not_overflow():
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 400_000)
    predictions = np.where(rng.random(400_000) < 0.9, targets, 1 - targets)
    assert of_classes(["matthews"], predictions, targets)["matthews"] == pytest.approx(80, abs=0.5)


# where there is no value, the number is 0; a warning would be an error here


@pytest.mark.parametrize(
    ("predictions", "targets", "expected"),
    [
        (
            [0, 0, 0],
            [0, 1, 1],
            {"accuracy": 100 / 3, "f1": 0, "matthews": 0, "macro_f1": 25, "micro_f1": 100 / 3, "balanced_accuracy": 50},
        ),
        (
            [0, 1, 1],
            [0, 0, 0],
            {
                "accuracy": 100 / 3,
                "f1": 0,
                "matthews": 0,
                "macro_f1": 25,
                "micro_f1": 100 / 3,
                "balanced_accuracy": 100 / 3,
            },
        ),
        (
            [0, 0],
            [0, 0],
            {"accuracy": 100, "f1": 0, "matthews": 0, "macro_f1": 100, "micro_f1": 100, "balanced_accuracy": 100},
        ),
        (
            [1, 1],
            [1, 1],
            {"accuracy": 100, "f1": 100, "matthews": 0, "macro_f1": 100, "micro_f1": 100, "balanced_accuracy": 100},
        ),
        ([0, 0], [1, 1], {"accuracy": 0, "f1": 0, "matthews": 0, "macro_f1": 0, "micro_f1": 0, "balanced_accuracy": 0}),
        (
            [1],
            [1],
            {"accuracy": 100, "f1": 100, "matthews": 0, "macro_f1": 100, "micro_f1": 100, "balanced_accuracy": 100},
        ),
    ],
)
def test_constant_classes(predictions, targets, expected):
    assert of_classes(OF_CLASSES, predictions, targets) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("predictions", "targets"),
    [
        ([2.5, 2.5, 2.5], [1.0, 2.0, 3.0]),
        ([1.0, 2.0, 3.0], [2.5, 2.5, 2.5]),
        ([0.1] * 7, [0.1] * 7),  # whose mean is not 0.1
        ([1.0], [2.0]),
    ],
)
def test_a_correlation_of_constants_is_0(predictions, targets):
    assert of_numbers(predictions, targets) == {"pearson": 0, "spearman": 0}


def test_nearly_constant_numbers_give_no_warning():
    found = of_numbers([1.0, 1.0 + 2**-52, 1.0], [1.0, 2.0, 3.0])
    assert -100 <= found["pearson"] <= 100
    assert found["spearman"] == pytest.approx(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.int64, torch.uint8])
def test_any_type_of_tensor_will_do(dtype):
    given = torch.tensor(PREDICTIONS, dtype=dtype), torch.tensor(TARGETS, dtype=dtype)
    assert scores(["accuracy"], *given) == pytest.approx({"accuracy": 70})
    assert scores(["pearson"], *given)["pearson"] == pytest.approx(100 * 10 / math.sqrt(600))


def test_predictions_may_need_gradients():
    predictions = torch.tensor([0.0, 1.0, 3.0], requires_grad=True)
    assert scores(["spearman"], predictions, torch.arange(3.0))["spearman"] == pytest.approx(100)


# what is refused


@pytest.mark.parametrize(
    ("predictions", "targets", "error"),
    [
        ([], [], "no example to score: the split is empty"),
        (
            [0.0, NAN, NAN],
            [0.0, 1.0, 1.0],
            "2 of 3 predictions are not finite, such as nan for example 1: training has diverged, take a smaller --lr",
        ),
        ([0.0, -INF], [0.0, 1.0], "1 of 2 predictions are not finite, such as -inf for example 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, targets, error):
    with pytest.raises(ValueError, match=error):
        scores(["pearson"], torch.tensor(predictions), torch.tensor(targets))


def test_a_metric_of_another_name_is_refused():
    with pytest.raises(ValueError, match="no metric 'f2': take one of accuracy, balanced_accuracy, f1, "):
        of_classes(["f2"], [0, 1], [0, 1])


# errors of numbers, in their own unit


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(finite, finite), min_size=2, max_size=30))
def test_errors_of_numbers_are_scikit_learns_and_in_the_unit_of_the_targets(pairs):
    predictions, targets = (torch.tensor(values, dtype=torch.float64) for values in zip(*pairs, strict=True))
    found = scores(["mae", "rmse", "r2"], predictions, targets)
    varied = len(targets.unique()) > 1
    assert found == pytest.approx(
        {
            "mae": sklearn_metrics.mean_absolute_error(targets, predictions),
            "rmse": math.sqrt(sklearn_metrics.mean_squared_error(targets, predictions)),
            "r2": sklearn_metrics.r2_score(targets, predictions) if varied else 0,
        }
    )


def test_errors_of_numbers_by_hand():
    found = scores(["mae", "rmse", "r2"], torch.tensor([1.0, 2.0, 7.0]), torch.tensor([1.0, 4.0, 4.0]))
    assert found == pytest.approx({"mae": 5 / 3, "rmse": math.sqrt(13 / 3), "r2": 1 - 13 / 6})


# numbers of a classification


def test_scores_of_each_class_are_scikit_learns_also_of_one_that_never_occurs():
    rng = np.random.default_rng(0)
    targets, predictions = rng.integers(0, 6, 200), rng.integers(1, 7, 200)  # of 9 classes
    found = class_scores(confusion_of(predictions, targets, 9))
    oracle = sklearn_metrics.classification_report(
        targets, predictions, labels=range(9), output_dict=True, zero_division=0
    )
    for name, scale in (("precision", 100), ("recall", 100), ("f1", 100), ("support", 1)):
        key = "f1-score" if name == "f1" else name
        assert found[name] == pytest.approx([scale * oracle[str(label)][key] for label in range(9)])


@pytest.mark.parametrize(("right", "total"), [(90, 100), (0, 10), (10, 10), (1, 1), (2700, 5400)])
def test_the_interval_of_an_accuracy_is_wilsons_formula(right, total):
    z, share = 1.959963985, right / total
    middle = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    assert wilson_interval(right, total) == pytest.approx((100 * (middle - half), 100 * (middle + half)), abs=1e-6)


def test_the_ends_of_an_interval_are_the_shares_that_are_just_not_refuted():
    for end in wilson_interval(17, 40):
        share = end / 100
        assert abs(17 / 40 - share) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(share * (1 - share) / 40))
    with pytest.raises(ValueError, match="no example to score"):
        wilson_interval(0, 0)


def drawn(count, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randn(count, classes, generator=generator).softmax(-1)
    return probabilities, torch.randint(classes, (count,), generator=generator)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_area_under_the_curve_is_scikit_learns(classes):
    probabilities, labels = drawn(150, classes)
    asked = probabilities.double()
    asked = asked[:, 1] if classes == 2 else asked / asked.sum(1, keepdim=True)
    oracle = sklearn_metrics.roc_auc_score(labels, asked, multi_class="ovr", average="macro")
    assert area_under_curve(probabilities, labels) == pytest.approx(100 * oracle)


def test_classes_that_no_example_has_have_no_area():
    probabilities, labels = drawn(60, 4)
    labels = labels % 3
    areas = [sklearn_metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]
    assert area_under_curve(probabilities, labels) == pytest.approx(100 * sum(areas) / 3)
    assert area_under_curve(probabilities, torch.zeros(60, dtype=torch.int64)) is None
    assert area_under_curve(probabilities[:, :2], torch.ones(60, dtype=torch.int64)) is None


def test_the_calibration_error_by_hand():
    # two bins of 2: confidences 0.3 and 0.5 (the edge belongs to the lower), 1 right: |0.5 - 0.4|; 0.9 and 0.7, 2 right
    confidences, right = torch.tensor([0.3, 0.5, 0.9, 0.7]), torch.tensor([True, False, True, True])
    assert calibration_error(confidences, right, bins=2) == pytest.approx(100 * (2 / 4 * 0.1 + 2 / 4 * 0.2))
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, False])) == pytest.approx(50)
    assert calibration_error(torch.tensor([0.0]), torch.tensor([True])) == pytest.approx(100)
    with pytest.raises(ValueError, match="no example to score"):
        calibration_error(torch.tensor([]), torch.tensor([]))


def test_the_calibration_error_is_that_of_a_loop_over_15_bins():
    probabilities, labels = drawn(500, 5)
    confidences, answers = probabilities.max(-1)
    expected = 0.0
    for i in range(15):
        inside = (confidences > i / 15) & (confidences <= (i + 1) / 15)
        if inside.any():
            gap = (answers == labels)[inside].double().mean() - confidences[inside].double().mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert calibration_error(confidences, answers == labels) == pytest.approx(100 * expected)


def test_the_mean_average_precision_is_scikit_learns_over_classes_that_occur():
    outputs, _ = drawn(80, 4)
    targets = (drawn(80, 4, seed=1)[0] > 0.3).long()
    targets[:, 2] = 0
    each = [sklearn_metrics.average_precision_score(targets[:, i], outputs[:, i]) for i in (0, 1, 3)]
    assert average_precision(outputs, targets) == pytest.approx(100 * sum(each) / 3)
    # by hand: ranks of the positives are 1 and 3
    one = average_precision(torch.tensor([[0.9], [0.8], [0.7]]), torch.tensor([[1], [0], [1]]))
    assert one == pytest.approx(100 * (0.5 * 1 + 0.5 * 2 / 3))
    with pytest.raises(ValueError, match="no example to score has any class"):
        average_precision(outputs, torch.zeros(80, 4))
