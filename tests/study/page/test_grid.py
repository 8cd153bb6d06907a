"""Means, spreads and averages by hand; nothing is averaged over what is missing."""

from __future__ import annotations

import statistics

import pytest
from studies import result, trial, write

from capaboost_vit.study.outcomes import read_outcomes
from capaboost_vit.study.page.grid import Grid

GROUPS = {"0-4": "low", "1-5": "low", "5-9": "high"}


def accuracy(method, task, seed):
    return 40 + 10 * list(GROUPS).index(task) + 3 * seed + (1.5 if method == "random" else 0) + (seed == 1) * 0.25


@pytest.fixture
def grid(tmp_path):
    """Two methods on three tasks, two of them in one group, with three seeds; left-out ones are not finished."""

    def make(*left_out, groups=GROUPS):
        everything = [
            (method, task, seed, trial(method, task, seed, group=groups[task]))
            for method in ("lora", "random")
            for task in GROUPS
            for seed in range(3)
        ]
        done = [(one, accuracy(m, t, s)) for m, t, s, one in everything if (m, t, s) not in left_out]
        study = write(tmp_path / "study", done, missing=[one for m, t, s, one in everything if (m, t, s) in left_out])
        (part,) = read_outcomes(study.path).parts
        return Grid(part)

    return make


def column(grid, name):
    return next(column for column in grid.columns if column.name == name)


def test_a_cell_is_the_mean_and_the_sample_standard_deviation_over_seeds(grid):
    grid = grid()
    found = grid.score("random", column(grid, "1-5"))
    values = [accuracy("random", "1-5", seed) for seed in range(3)]
    assert (found.mean, found.spread) == pytest.approx((sum(values) / 3, statistics.stdev(values)))
    assert found.lacking == ()


def test_both_averages_weigh_groups_and_tasks_as_they_say(grid):
    found = grid()
    assert [a.name for a in found.averages] == ["low", "high", "mean of 2 groups", "mean of 3 tasks"]
    means = {task: statistics.fmean(accuracy("lora", task, seed) for seed in range(3)) for task in GROUPS}
    low = (means["0-4"] + means["1-5"]) / 2
    expected = [low, means["5-9"], (low + means["5-9"]) / 2, sum(means.values()) / 3]
    assert [found.score("lora", a).mean for a in found.averages] == pytest.approx(expected)
    assert expected[2] != pytest.approx(expected[3])


def test_the_spread_of_an_average_is_that_over_the_seeds_of_the_average(grid):
    found = grid()
    by_seed = [statistics.fmean(accuracy("lora", task, seed) for task in GROUPS) for seed in range(3)]
    assert found.score("lora", column(found, "mean of 3 tasks")).spread == pytest.approx(statistics.stdev(by_seed))


def test_an_average_is_missing_as_long_as_one_seed_of_one_task_is(grid):
    found = grid(("lora", "1-5", 2))
    for name in ("low", "mean of 2 groups", "mean of 3 tasks"):
        summary = found.score("lora", column(found, name))
        assert (summary.mean, summary.spread, summary.lacking) == (None, None, ("1-5 (2 of 3 seeds)",))
        assert found.score("random", column(found, name)).mean is not None
    assert found.score("lora", column(found, "high")).mean is not None
    cell = found.score("lora", column(found, "1-5"))
    assert (cell.mean, cell.lacking) == (
        pytest.approx(statistics.fmean(accuracy("lora", "1-5", s) for s in range(2))),
        ("2 of 3 seeds",),
    )


def test_a_cell_without_any_seed_has_no_mean(grid):
    found = grid(*(("random", "5-9", seed) for seed in range(3)))
    cell = found.score("random", column(found, "5-9"))
    assert (cell.mean, cell.spread, cell.lacking) == (None, None, ("0 of 3 seeds",))
    assert found.score("random", column(found, "high")).lacking == ("5-9 (0 of 3 seeds)",)


def test_a_cell_that_nobody_has_planned_is_missing_too(tmp_path):
    done = [(trial("lora", task, 0), 50.0) for task in ("0-4", "5-9")] + [(trial("random", "0-4", 0), 60.0)]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    found = Grid(part)
    assert found.score("random", column(found, "5-9")).lacking == ("0 of 1 seeds",)
    assert found.score("random", column(found, "mean of 2 tasks")).mean is None
    assert found.score("lora", column(found, "mean of 2 tasks")).mean == 50


def test_seeds_that_were_added_for_one_method_do_not_make_the_others_incomplete(tmp_path):
    done = [(trial("lora", task, seed), 50.0) for task in ("0-4", "5-9") for seed in range(3)]
    done += [(trial("random", task, 0), 60.0) for task in ("0-4", "5-9")]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    found = Grid(part)
    assert found.score("random", column(found, "mean of 2 tasks")).mean == 60
    assert found.score("random", column(found, "mean of 2 tasks")).spread is None


@pytest.mark.parametrize(
    ("groups", "names"),
    [
        (dict.fromkeys(GROUPS, ""), ["mean of 3 tasks"]),
        (dict.fromkeys(GROUPS, "all"), ["mean of 3 tasks"]),
        ({**GROUPS, "5-9": ""}, ["mean of 3 tasks"]),
    ],
    ids=["without groups", "one group", "a task without a group"],
)
def test_groups_are_averaged_only_where_every_task_has_one_of_several(grid, groups, names):
    assert [a.name for a in grid(groups=groups).averages] == names


def test_tasks_stand_by_group_in_the_order_in_which_they_were_planned(tmp_path):
    done = [(trial("lora", t, 0, group=g), 1.0) for t, g in (("5-9", "b"), ("0-4", "a"), ("1-5", "b"), ("0-9", "a"))]
    (part,) = read_outcomes(write(tmp_path, done).path).parts
    assert list(Grid(part).tasks) == ["5-9", "1-5", "0-4", "0-9"]


def test_one_task_has_no_average(tmp_path):
    (part,) = read_outcomes(write(tmp_path, [(trial("lora", "0-4", 0), 1.0)]).path).parts
    assert Grid(part).averages == []


def test_the_helper_writes_what_a_run_writes(real_study):
    outcomes = read_outcomes(real_study)
    real = next(o for o in outcomes.finals if o.result is not None)
    assert result(real.trial, 1.0).keys() <= real.result.keys()
