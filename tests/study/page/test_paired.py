"""Differences to a reference by hand, their intervals against a naive bootstrap."""

from __future__ import annotations

import random
import statistics

import numpy as np
import pytest
from studies import LORA, METHODS, trial, write

from capaboost_vit.study.outcomes import read_outcomes
from capaboost_vit.study.page.grid import Grid, bootstrap, plain_lora
from capaboost_vit.study.page.tables import comparison_tables

TASKS = {"0-4": "low", "1-5": "low", "5-9": "high"}
DRAW = random.Random(0)
SCORES = {
    (method, task, seed): 50 + 4 * (method == "sign") + DRAW.gauss(0, 1.5)
    for method in ("lora", "sign")
    for task in TASKS
    for seed in range(5)
}


def make(folder, *left_out, scores=SCORES):
    everything = {key: trial(*key, group=TASKS[key[1]]) for key in scores}
    done = [(one, scores[key]) for key, one in everything.items() if key not in left_out]
    study = write(folder, done, missing=[everything[key] for key in left_out])
    (part,) = read_outcomes(study.path).parts
    return Grid(part)


def column(grid, name):
    return next(column for column in grid.columns if column.name == name)


def differences(task):
    return [SCORES["sign", task, seed] - SCORES["lora", task, seed] for seed in range(5)]


def naive(samples, weights, count=4000):
    """Ends of the percentile interval: each sample is drawn with replacement by itself."""
    draw = random.Random(1)
    means = sorted(
        sum(w * statistics.fmean(draw.choices(s, k=len(s))) for w, s in zip(weights, samples, strict=True))
        for _ in range(count)
    )
    return means[int(0.025 * count)], means[int(0.975 * count)]


def test_the_difference_on_a_task_is_that_of_the_common_seeds(tmp_path):
    grid = make(tmp_path, ("lora", "0-4", 1), ("sign", "0-4", 4))
    common = [difference for seed, difference in enumerate(differences("0-4")) if seed not in (1, 4)]
    found = grid.difference("sign", column(grid, "0-4"))
    assert found.mean == pytest.approx(statistics.fmean(common))
    assert (found.seeds, found.lacking) == (3, ("3 of 5 pairs",))
    assert found.low < found.mean < found.high


@pytest.mark.parametrize(
    ("samples", "weights"),
    [([differences("0-4")], [1.0]), ([differences(task) for task in TASKS], [0.25, 0.25, 0.5])],
    ids=["one task", "weighted tasks"],
)
def test_the_interval_is_that_of_a_naive_bootstrap(samples, weights):
    low, high = bootstrap(samples, weights)
    assert (low, high) == pytest.approx(naive(samples, weights), abs=0.1 * np.std(samples[0]))
    assert (low, high) == bootstrap(samples, weights)  # seeded


def test_the_overall_difference_weighs_tasks_as_the_average_does(tmp_path):
    grid = make(tmp_path)
    means = {task: statistics.fmean(differences(task)) for task in TASKS}
    groups = column(grid, "mean of 2 groups")
    tasks = column(grid, "mean of 3 tasks")
    expected = (means["0-4"] + means["1-5"]) / 4 + means["5-9"] / 2
    assert grid.difference("sign", groups).mean == pytest.approx(expected)
    assert grid.difference("sign", tasks).mean == pytest.approx(statistics.fmean(means.values()))
    both = [grid.score(method, tasks).mean for method in ("sign", "lora")]
    assert grid.difference("sign", tasks).mean == pytest.approx(both[0] - both[1])
    assert grid.difference("sign", tasks).sign == 1
    assert Grid(grid.part, reference="sign").difference("lora", tasks).sign == -1


@pytest.mark.parametrize("method", ["lora", "sign"])
def test_no_overall_difference_while_a_pair_of_a_task_is_missing(tmp_path, method):
    grid = make(tmp_path, (method, "1-5", 3))
    found = grid.difference("sign", column(grid, "mean of 3 tasks"))
    assert (found.mean, found.low, found.high, found.sign) == (None, None, None, 0)
    assert found.lacking == ("1-5 (4 of 5 pairs)",)


def test_one_seed_has_a_difference_and_no_interval_and_none_has_nothing(tmp_path):
    grid = make(tmp_path, *(("sign", "0-4", seed) for seed in range(1, 5)), *(("sign", "1-5", s) for s in range(5)))
    found = grid.difference("sign", column(grid, "0-4"))
    assert (found.mean, found.low, found.sign) == (pytest.approx(differences("0-4")[0]), None, 0)
    assert grid.difference("sign", column(grid, "1-5")).lacking == ("no common seed",)


def test_two_seeds_have_a_difference_and_no_interval(tmp_path):
    grid = make(tmp_path, scores={key: score for key, score in SCORES.items() if key[2] < 2})
    for name in ("0-4", "mean of 3 tasks"):
        found = grid.difference("sign", column(grid, name))
        assert found.mean is not None
        assert (found.low, found.high, found.sign, found.seeds) == (None, None, 0, 2)
    (paired,) = (table for table in comparison_tables(grid) if table.key.endswith("paired"))
    assert {cell.detail for cell in paired.rows[0][1:]} == {"n = 2: no interval"}
    assert "An interval takes 3 seeds" in paired.notes[0]
    assert not any("bootstrap" in note for note in paired.notes)


def test_equal_differences_are_an_interval_without_width_and_no_warning(tmp_path):
    scores = {(m, "0-4", seed): 50.0 + (m == "sign") for m in ("lora", "sign") for seed in range(3)}
    grid = make(tmp_path, scores=scores)
    found = grid.difference("sign", column(grid, "0-4"))
    assert (found.mean, found.low, found.high, found.sign) == (1, 1, 1, 1)


@pytest.mark.parametrize(
    ("methods", "found"),
    [
        (["random", "lora"], "lora"),
        (["random", "mine"], "mine"),
        (["random", "sign"], None),
        (["masked"], None),
        (["tied"], None),
        (["dropped"], None),
    ],
    ids=str,
)
def test_the_reference_is_the_plain_lora(tmp_path, monkeypatch, methods, found):
    monkeypatch.setitem(METHODS, "mine", LORA)
    monkeypatch.setitem(METHODS, "masked", {**LORA, "density": 0.5})
    monkeypatch.setitem(METHODS, "tied", {**LORA, "num_branches": 2})
    monkeypatch.setitem(METHODS, "dropped", {**LORA, "dropout": 0.1})
    done = [(trial(method, "0-4", 0), 50.0) for method in methods]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    assert plain_lora(Grid(part).rows) == found
