"""The average of GLUE's eleven numbers, as it was published."""

from __future__ import annotations

import numpy as np
import pytest

from capaboost_vit.nlu.metrics import glue_average


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
