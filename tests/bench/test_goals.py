"""A result answers the goals of its own workload, and a goal is met up to its bound and no further."""

from __future__ import annotations

import dataclasses

import pytest

from capaboost_vit.bench.config import SpeedConfig
from capaboost_vit.bench.goals import goals

GPU = {"model": "vit_base_patch16_224", "batch_size": 64, "amp": True, "compile": True}
TEXT = {"model": "roberta-base", "size": "128 tokens"}


def case(seconds, peak):
    times = [seconds, 2 * seconds, 3 * seconds]
    return {"times": {"whole": {"times": times}}, "memory": {"peak": peak, "saved": 0, "resident": 0}}


def result(device="cpu", *, d2=1.0, d4=1.0, peft=1.25, peak=100, merged=1.0, imported=0.1, size="224 px", **options):
    cases = {
        "floor": case(1, 80),
        "peft": case(peft, 101),
        "capaboost-d2": case(d2, peak),
        "capaboost-d4": case(d4, 1),
    }
    group = {"cases": cases, "stored_inputs": {"all": 20, "not_kept_by_floor": 15}}
    return {
        "config": dataclasses.asdict(SpeedConfig(device=device, **options)),
        "device": device,
        "size": size,
        "groups": {"all-linears": group, "q-v": group, "methods": {"cases": {}}},
        "inference": {"base": case(1, 0), "merged": case(merged, 0)},
        "import_seconds": imported,
    }


def by_measure(found):
    return {goal.measure: goal for goal in found}


def test_a_cpu_result_answers_the_goals_of_the_cpu():
    assert [(goal.measure, goal.bound, goal.met) for goal in goals(result())] == [
        ("CPU, all linears, d 2: step / floor", "<= 1.06", True),
        ("CPU, all linears, d 2: step / peft", "<= 0.85", True),
        ("CPU, q and v, d 2: step / floor", "<= 1.02", True),
        ("CPU, q and v, d 2: step / peft on qkv", "<= 0.97", True),
        ("CPU, all linears: d 4 / d 2", "<= 1.06", True),
        ("CPU, all-linears, d 2: peak memory / (floor + stored inputs)", "<= 1.00", True),
        ("CPU, all-linears, d 2: peak memory / peft", "<= 1.00", True),
        ("CPU, q-v, d 2: peak memory / (floor + stored inputs)", "<= 1.00", True),
        ("CPU, q-v, d 2: peak memory / peft", "<= 1.00", True),
        ("import capaboost_vit beyond timm (s)", "<= 0.30", True),
        ("merged inference / base inference", "1.00 +- 0.01", True),
    ]


def test_a_result_of_texts_answers_the_goals_of_texts():
    assert [(goal.measure, goal.bound, goal.met) for goal in goals(result(**TEXT))] == [
        ("text on a CPU, all linears, d 2: step / floor", "<= 1.06", True),
        ("text on a CPU, all linears, d 2: step / peft", "<= 0.85", True),
        ("text on a CPU, q and v, d 2: step / floor", "<= 1.02", True),
        ("text on a CPU, all linears: d 4 / d 2", "<= 1.06", True),
        ("import capaboost_vit beyond timm (s)", "<= 0.30", True),
        ("merged inference / base inference", "1.00 +- 0.01", True),
    ]


def test_a_gpu_result_answers_those_of_the_gpu():
    found = by_measure(goals(result("cuda", **GPU)))
    assert found["GPU, all linears, d 2: step / floor"].bound == "<= 1.05"
    assert found["GPU, all linears, d 2: step / peft"].bound == "<= 0.90"
    assert found["GPU, all linears, d 2: step / peft"].value == pytest.approx(0.8)
    assert not any(measure.startswith("CPU") for measure in found)


@pytest.mark.parametrize(
    ("change", "measure", "value", "met"),
    [
        ({"d2": 1.06}, "CPU, all linears, d 2: step / floor", 1.06, True),
        ({"d2": 1.0601}, "CPU, all linears, d 2: step / floor", 1.0601, False),
        ({"d2": 1.0, "peft": 1.0}, "CPU, all linears, d 2: step / peft", 1.0, False),
        ({"d2": 0.5, "d4": 0.6}, "CPU, all linears: d 4 / d 2", 1.2, False),
        ({**TEXT, "d2": 1.0601}, "text on a CPU, all linears, d 2: step / floor", 1.0601, False),
        ({**TEXT, "d2": 1.0201}, "text on a CPU, q and v, d 2: step / floor", 1.0201, False),
        ({"peak": 101}, "CPU, q-v, d 2: peak memory / (floor + stored inputs)", 1.01, False),
        ({"peak": 101}, "CPU, q-v, d 2: peak memory / peft", 1.0, True),
        ({"merged": 0.985}, "merged inference / base inference", 0.985, False),
        ({"merged": 1.009}, "merged inference / base inference", 1.009, True),
        ({"imported": 0.31}, "import capaboost_vit beyond timm (s)", 0.31, False),
    ],
)
def test_a_goal_is_met_up_to_its_bound(change, measure, value, met):
    goal = by_measure(goals(result(**change)))[measure]
    assert goal.value == pytest.approx(value)
    assert goal.met is met


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 4},
        {"rank": 4},
        {"model": "vit_tiny_patch16_224"},
        {"amp": True},
        {"size": "192 px"},
        {"model_kwargs": {"depth": 2}},
        {**TEXT, "size": "64 tokens"},
        {**TEXT, "batch_size": 16},
        {**TEXT, "padding": 0.25},
        {**TEXT, "model": "bert-base-uncased"},
        {**TEXT, "model_kwargs": {"hidden_dropout_prob": 0.0}},
        {**TEXT, "device": "cuda"},
        {"device": "cuda"},
        {"device": "cuda", **GPU, "compile": False},
        {"device": "cuda", **GPU, "amp_dtype": "float16"},
    ],
    ids=str,
)
def test_another_workload_answers_nothing_but_the_import(options):
    assert list(by_measure(goals(result(**options)))) == ["import capaboost_vit beyond timm (s)"]


def test_what_was_not_measured_is_not_answered():
    partial = result(imported=None)
    partial["inference"] = None
    del partial["groups"]["q-v"], partial["groups"]["all-linears"]["cases"]["peft"]
    del partial["groups"]["all-linears"]["cases"]["capaboost-d4"]["times"]
    del partial["groups"]["all-linears"]["stored_inputs"]
    assert list(by_measure(goals(partial))) == ["CPU, all linears, d 2: step / floor"]
