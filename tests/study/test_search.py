"""Search of hyper-parameters: engines as functions of what was tried, the same candidates whoever computes them."""

from __future__ import annotations

import json
import sys

import pytest

from capaboost_vit.cli import main
from capaboost_vit.study.config import StudyTuneConfig
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.search import search
from capaboost_vit.study.search_engines import ENGINES, propose
from capaboost_vit.study.search_space import Axis, search_axes
from capaboost_vit.study.selection import read_choices

OPTIONS = {"lr": 1e-3, "method": {"name": "lora", "rank": 8, "dropout": 0.0, "pattern": "random"}}
AXES = [
    Axis("lr", 1e-3, low=1e-4, high=1e-1, log=True),
    Axis("method.rank", 8, values=(2, 4, 8, 16)),
    Axis("method.alpha", 8, low=1, high=64),
    Axis("method.pattern", "random", values=("random", "sign", "complementary")),
]


def height(point):
    """Highest at lr 1e-2, rank 4, alpha 40, sign."""
    return -((point[0] + 2) ** 2) - (point[1] - 1) ** 2 / 4 - (point[2] - 40) ** 2 / 400 - (point[3] != 1)


def searched(engine, budget, batch=1, seed=0, axes=AXES):
    tried = []
    while len(tried) < budget:
        points = propose(engine, axes, tried, min(batch, budget - len(tried)), seed)
        if not points:
            break
        tried += [(point, height(point)) for point in points]
    return tried


def test_entries_of_a_grid_become_axes():
    grid = {
        "lr": {"low": "x0.1", "high": 0.1, "log": True},
        "method.rank": [2, 4, 8],
        "method.dropout": {"low": 0, "high": 0.5},
        "method.bottleneck": [4, 8],  # of another method
    }
    lr, rank, dropout = search_axes(grid, OPTIONS)
    assert (lr.bounds(), lr.start(), lr.value(-2.5)) == ((-4, -1), -3, 0.00316)
    assert (rank.bounds(), rank.start(), rank.value(1.0), rank.whole) == ((0, 2), 2, 4, True)
    assert (dropout.bounds(), dropout.start(), dropout.value(0.12345), dropout.whole) == ((0, 0.5), 0, 0.123, False)
    whole = Axis("method.alpha", 100, low=1, high=64)
    assert (whole.start(), whole.value(12.0), whole.whole) == (64, 12, True)


def test_a_value_at_the_end_of_what_could_be_chosen_is_at_the_edge():
    lr, rank, _, pattern = AXES
    assert [lr.at_the_edge(value) for value in (1e-4, 2e-4, 1e-1)] == [True, False, True]
    assert [rank.at_the_edge(value) for value in (2, 4, 16)] == [True, False, True]
    assert not pattern.at_the_edge("random")
    assert not Axis("lr", 1.0, values=(1.0,)).at_the_edge(1.0)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"low": 1e-3, "hihg": 1e-2}, "a range has no 'hihg' (did you mean 'high'?)"),
        ({"low": 1e-3}, "expected a list, or a range such as"),
        ({"low": 1e-2, "high": 1e-3}, "expected a list, or a range such as"),
        ({"low": 0, "high": 1e-3, "log": True}, "expected a list, or a range such as"),
        ({"low": "xx", "high": 1}, "'xx' is no multiple of the method's own 0.001"),
    ],
)
def test_a_range_that_is_none_is_refused(entry, message):
    with pytest.raises(ValueError, match=r"--grid lr: ") as error:
        search_axes({"lr": entry}, OPTIONS)
    assert message in str(error.value)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_methods_own_values_come_first_and_all_points_lie_in_the_space(engine):
    tried = searched(engine, 14, batch=3)
    assert tried[0][0] == tuple(axis.start() for axis in AXES)
    for point, _ in tried:
        for axis, coordinate in zip(AXES, point, strict=True):
            low, high = axis.bounds()
            assert low <= coordinate <= high
            assert not axis.whole or float(coordinate).is_integer()
    assert len({point for point, _ in tried}) > 10


@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_seed_asks_for_the_same_points_and_another_for_others(engine):
    assert searched(engine, 9, batch=2) == searched(engine, 9, batch=2)
    assert searched(engine, 9, batch=2, seed=1)[1:] != searched(engine, 9, batch=2)[1:]


def test_a_batch_of_random_points_is_the_same_points_one_by_one():
    assert searched("random", 7, batch=1)[1:] == searched("random", 7, batch=6)[1:]


@pytest.mark.parametrize("engine", ["optuna", "nomad"])
def test_an_engine_climbs_higher_than_random_draws(engine):
    best = {
        name: [max(s for _, s in searched(name, 30, seed=seed)) for seed in range(3)] for name in ("random", engine)
    }
    assert sum(best[engine]) > sum(best["random"])


@pytest.mark.parametrize("engine", ENGINES)
def test_without_axes_the_methods_own_values_are_the_only_point(engine):
    assert propose(engine, [], [], 4, 0) == [()]
    assert propose(engine, [], [((), 1.0)], 4, 0) == []


def test_nomad_that_repeats_itself_otherwise_is_an_error():
    with pytest.raises(RuntimeError, match="NOMAD ended with 3: NOMAD asks for"):
        propose("nomad", AXES, [((-3.9, 0.0, 1.0, 0.0), 0.0)], 1, 0)


@pytest.fixture
def config(written):
    def make(**options):
        return StudyTuneConfig(**written(**{"grid": {"lr": {"low": 1e-3, "high": 1e-1, "log": True}}, **options}))

    return make


@pytest.fixture
def computed(study, finish):
    """Computes trials at once: the accuracy is highest at the rate 1e-2. `asked` are the rates of each call."""

    def compute(trials):
        kept, _ = study.add(trials)
        compute.asked.append([trial.config["lr"] for trial in kept])
        for trial in reversed(kept):  # workers finish in any order
            if not study.finished(trial):
                finish(study, trial, 100 - abs(trial.config["lr"] - 1e-2) * 1000 - 5 * (trial.task == "two"))
        return kept

    compute.asked = []
    return compute


@pytest.mark.parametrize("engine", ENGINES)
def test_a_search_that_was_stopped_goes_on_with_the_same_candidates(engine, study, config, computed, finish):
    options = {"search": engine, "budget": 7, "batch": 2, "across_tasks": True}
    choices, missing = search(study, config(**options), computed)
    first, computed.asked = computed.asked, []
    assert missing == []
    (choice,) = {json.dumps(choice) for choice in choices.values()}
    assert len(choices) == 2
    best = json.loads(choice)
    assert len(best["tried"]) == 7
    assert best["score"] == max(score for _, score in best["tried"])
    assert best["options"]["lr"] == dict((s, o["lr"]) for o, s in reversed(best["tried"]))[best["score"]]
    again, _ = search(study, config(**options), computed)
    assert (computed.asked, again) == (first, choices)
    longer, _ = search(study, config(**{**options, "budget": 8}), computed)
    assert longer[next(iter(longer))]["tried"][:6] == again[next(iter(again))]["tried"][:6]


@pytest.mark.parametrize(("engine", "module", "package"), [("optuna",) * 3, ("nomad", "PyNomad", "PyNomadBBO")])
def test_an_engine_that_is_not_installed_is_said_before_anything_is_computed(
    engine, module, package, study, config, computed, monkeypatch
):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"--search {engine} needs {package}: pip install 'capaboost_vit"):
        search(study, config(search=engine, budget=3), computed)
    assert computed.asked == []


def test_each_task_has_its_own_search_and_a_batch_holds_all_of_them(study, config, computed):
    choices, _ = search(study, config(search="random", budget=5, batch=5), computed)
    assert [len(call) for call in computed.asked] == [10]
    assert len(choices) == 2
    assert {choice["score"] for choice in choices.values()} != {next(iter(choices.values()))["score"]}


def test_a_run_that_diverged_counts_as_nothing_right_and_one_that_failed_leaves_no_choice(study, config, finish):
    def compute(trials):
        kept, _ = study.add(trials)
        for trial in kept:
            if trial.task == "two":
                study.give_up(trial, "ValueError: broken", 1)
            elif trial.config["lr"] == 0.001:
                study.give_up(trial, "FloatingPointError: loss is nan", 1)
            else:
                finish(study, trial, 40.0)
        return kept

    choices, missing = search(study, config(search="random", budget=3), compute)
    (choice,) = choices.values()
    assert [score for _, score in choice["tried"]] == [0.0, 40.0, 40.0]  # 1e-3 is the method's own, and comes first
    (line,) = missing
    assert "lora on two, seed 0, candidate failed (ValueError: broken)" in line


@pytest.mark.parametrize("engine", ENGINES)
def test_options_with_one_value_are_no_part_of_a_search(engine, study, config, computed):
    lr = {"low": 1e-3, "high": 1e-1, "log": True}
    given = {"search": engine, "budget": 3, "across_tasks": True}
    alone, _ = search(study, config(**given, grid={"lr": lr}), computed)
    beside, _ = search(study, config(**given, grid={"method.rank": [3], "lr": lr}), computed)
    rates = [[options["lr"] for options, _ in next(iter(found.values()))["tried"]] for found in (alone, beside)]
    assert rates[0] == rates[1]
    assert {options["method.rank"] for options, _ in next(iter(beside.values()))["tried"]} == {3}


def test_a_search_from_the_command_line(written, finish, capsys, monkeypatch):
    def run_workers(study, _):
        for trial in study.open_trials():
            finish(study, trial, 50.0)

    monkeypatch.setattr("capaboost_vit.study.pool.run_workers", run_workers)
    values = written()
    given = [
        "--methods",
        *values["methods"],
        "--suite",
        values["suite"],
        "--output",
        values["output"],
        "--tasks",
        "one",
    ]
    given += ["--backbone", values["backbone"], "--initial-checkpoint", values["initial_checkpoint"]]
    given += ["--grid", "lr={low: 1e-3, high: 1e-1, log: true}", "--search", "random", "--budget", "3", "--batch", "2"]
    assert main(["study", "tune", *given, "--workers", "0"]) == 0
    captured = capsys.readouterr()
    assert "no workers on this machine" in captured.out
    assert "lora on one, seed 0, candidate is not finished: start workers, then this again" in captured.err
    assert main(["study", "tune", *given]) == 0
    assert "2 of 3 candidates, best val 50.00 (lr 0.001)" in (said := capsys.readouterr().out)
    assert "3 of 3 candidates, best val 50.00 (lr 0.001)" in said
    (choice,) = read_choices(Study(values["output"])).values()
    assert len(choice["tried"]) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"search": "optuna"}, "--search optuna needs --budget"),
        ({"budget": 3, "grid": {"lr": [1e-3]}}, "--budget is for a search: add --search"),
        ({}, "expected a list of values, got .*: a range needs --search"),
    ],
)
def test_options_of_a_search_that_make_no_sense_are_refused(config, options, message):
    with pytest.raises(ValueError, match=message):
        config(**options)
