"""Metrics of text tasks: scikit-learn's and scipy's where these have a value, and what we say where they have none."""

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

from capaboost_vit.nlu.metrics import glue_average, scores

OF_CLASSES = ("accuracy", "f1", "matthews", "macro_f1", "micro_f1")
NAN, INF = float("nan"), float("inf")


def of_classes(names, predictions, targets):
    return scores(names, torch.tensor(predictions), torch.tensor(targets))


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
        }
        if num_classes == 2:
            oracle["f1"] = sklearn_metrics.f1_score(targets, predictions)
    assert found == pytest.approx({name: 100 * value for name, value in oracle.items()}, abs=1e-9)
    assert found["micro_f1"] == pytest.approx(found["accuracy"])


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
        ([0, 0, 0], [0, 1, 1], {"accuracy": 100 / 3, "f1": 0, "matthews": 0, "macro_f1": 25, "micro_f1": 100 / 3}),
        ([0, 1, 1], [0, 0, 0], {"accuracy": 100 / 3, "f1": 0, "matthews": 0, "macro_f1": 25, "micro_f1": 100 / 3}),
        ([0, 0], [0, 0], {"accuracy": 100, "f1": 0, "matthews": 0, "macro_f1": 100, "micro_f1": 100}),
        ([1, 1], [1, 1], {"accuracy": 100, "f1": 100, "matthews": 0, "macro_f1": 100, "micro_f1": 100}),
        ([0, 0], [1, 1], {"accuracy": 0, "f1": 0, "matthews": 0, "macro_f1": 0, "micro_f1": 0}),
        ([1], [1], {"accuracy": 100, "f1": 100, "matthews": 0, "macro_f1": 100, "micro_f1": 100}),
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
        ([0.0, NAN, NAN], [0.0, 1.0, 1.0], "prediction 1 is nan, as 2 of 3: did it diverge"),
        ([0.0, -INF], [0.0, 1.0], "prediction 1 is -inf, as 1 of 2"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions, targets, error):
    with pytest.raises(ValueError, match=error):
        scores(["pearson"], torch.tensor(predictions), torch.tensor(targets))


# GLUE


def row(cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte):
    return {
        "cola": {"matthews": cola},
        "sst2": {"accuracy": sst2},
        "mrpc": dict(zip(("accuracy", "f1"), mrpc, strict=True)),
        "qqp": dict(zip(("accuracy", "f1"), qqp, strict=True)),
        "stsb": dict(zip(("pearson", "spearman"), stsb, strict=True)),
        "mnli": {"accuracy": mnli},
        "qnli": {"accuracy": qnli},
        "rte": {"accuracy": rte},
    }


PUBLISHED = {  # ProPETL's rows as the README of CapaBoost's code prints them, with its averages
    "ProAdapter": (row(65.43, 94.15, (88.24, 91.41), (89.40, 86.04), (91.34, 90.95), 86.53, 92.58, 76.50), 86.6),
    "ProLoRA": (row(61.81, 94.00, (87.42, 91.00), (88.85, 85.22), (90.48, 90.47), 85.73, 91.05, 63.79), 84.53),
    "ProPrefix": (row(62.16, 93.62, (88.73, 91.80), (87.59, 83.71), (90.92, 90.83), 85.30, 91.75, 72.66), 85.37),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_average_of_11_numbers_is_the_one_that_was_published(name):
    rows, average = PUBLISHED[name]
    assert glue_average(rows) == pytest.approx(average, abs=0.005)


def test_the_average_of_tasks_is_another_number():
    rows, average = PUBLISHED["ProAdapter"]
    of_tasks = np.mean([np.mean(list(metrics.values())) for metrics in rows.values()])
    assert abs(of_tasks - average) > 0.5


NUMBERS = [(task, metric) for task, metrics in PUBLISHED["ProLoRA"][0].items() for metric in metrics]


def test_eleven_numbers_count():
    assert len(NUMBERS) == 11


@pytest.mark.parametrize(("task", "metric"), NUMBERS)
def test_without_one_of_the_numbers_there_is_no_average(task, metric):
    rows, _ = PUBLISHED["ProLoRA"]
    assert glue_average({**rows, task: {name: rows[task][name] for name in rows[task] if name != metric}}) is None
    assert glue_average({name: rows[name] for name in rows if name != task}) is None


def test_other_numbers_and_tasks_do_not_count():
    rows, _ = PUBLISHED["ProLoRA"]
    more = {**rows, "wnli": {"accuracy": 1.0}, "cola": {**rows["cola"], "accuracy": 1.0}}
    assert glue_average(more) == glue_average(rows)
    assert glue_average({}) is None
