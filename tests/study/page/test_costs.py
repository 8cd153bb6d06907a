"""Parameters and FLOPs against formulas; what is unknown stays unknown."""

from __future__ import annotations

import json
import math

import pytest
import torch
from studies import COMMON, LORA, METHODS, VIT, result, trial, write

from capaboost_vit.study.outcomes import read_outcomes
from capaboost_vit.study.page import costs
from capaboost_vit.study.page.costs import count_model, model_options
from capaboost_vit.study.page.grid import Grid

WIDTH, DEPTH = VIT["embed_dim"], VIT["depth"]


def count(method, **options):
    return count_model(model_options({**COMMON, "method": method, **options}))


def test_the_parameters_of_lora_are_those_of_the_formula_and_the_head_is_not_counted():
    expected = DEPTH * 2 * 2 * WIDTH * LORA["rank"]
    assert count(LORA)[0] == expected
    assert count(METHODS["random"])[0] == expected
    assert count(METHODS["head"])[0] == 0
    assert count(METHODS["head"], lr=3.0, seed=9) == count(METHODS["head"])  # nothing else matters


def test_ideal_flops_leave_out_what_is_masked():
    tokens = (16 // VIT["patch_size"]) ** 2 + 1
    base = count(METHODS["head"])[1]
    branch = DEPTH * 2 * 2 * WIDTH * LORA["rank"] * tokens
    assert count(LORA)[1:] == (base + branch, base + branch)
    assert count(METHODS["random"])[1:] == (base + 2 * branch, base + branch)


def test_the_global_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    count(LORA)
    assert torch.equal(before, torch.random.get_rng_state())


def test_costs_are_means_over_tasks_and_missing_where_one_is(tmp_path, monkeypatch):
    study = write(tmp_path, [(trial(m, t, s), 50.0) for m in ("lora", "sign") for t in ("0-4", "5-9") for s in (0, 1)])
    seconds = {"0-4": (10, 20), "5-9": (30, 50)}
    for one in study.trials().values():
        found = result(one, 50.0, train_seconds=seconds[one.task][one.seed])
        found |= {"memory_mb": 100.0} if one.method == "lora" or one.task == "0-4" else {}
        (study.run_folder(one) / "result.json").write_text(json.dumps(found))
    (part,) = read_outcomes(tmp_path).parts
    monkeypatch.setattr(costs, "count_model", lambda options: (7, 100, 50))
    lora, sign = costs.measure_costs(Grid(part)).itertuples()
    assert (lora.trained, lora.executed, lora.ideal, lora.train_seconds) == (7, 100, 50, (15 + 40) / 2)
    assert (lora.memory_mb, lora.accuracy, lora.problem) == (100, 50, "")
    assert math.isnan(sign.memory_mb)


def test_a_model_that_cannot_be_built_has_unknown_costs_and_says_why(tmp_path, monkeypatch):
    (part,) = read_outcomes(write(tmp_path, [(trial("lora", "0-4", 0), 50.0)]).path).parts

    def refuse(options):
        raise ValueError("timm has no model 'x'\nand more")

    with monkeypatch.context() as patch:
        patch.setattr(costs, "count_model", refuse)
        (cost,) = costs.measure_costs(Grid(part)).itertuples()
    assert math.isnan(cost.trained + cost.executed)
    assert cost.problem == "ValueError: timm has no model 'x'"
    with pytest.raises(ValueError, match="timm has no model"):
        count(LORA, model="no_such_model")


def test_settings_that_were_tuned_by_task_are_averaged(tmp_path, monkeypatch):
    done = [(trial("lora", "0-4", 0), 50.0), (trial("lora", "5-9", 0, method={**LORA, "rank": 4}), 50.0)]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    monkeypatch.setattr(costs, "count_model", lambda o: (json.loads(o)["method"]["rank"], 1, 1))
    (cost,) = costs.measure_costs(Grid(part)).itertuples()
    assert cost.trained == 3
