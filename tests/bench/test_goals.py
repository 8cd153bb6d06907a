"""A goal of a configuration is about what it names, and is met up to its bound and no further."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from capaboost_vit.bench.config import SpeedConfig
from capaboost_vit.bench.measure import judge

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "bench"


def row(case, seconds, peak):
    return {"case": case, "peak MB": peak, "times": {"whole": [seconds, 2 * seconds, 3 * seconds]}}


def tables():
    group = [row("floor", 1, 80), row("peft", 1.25, 101), row("capaboost-d2", 1.06, 101), row("capaboost-d4", 2, 1)]
    group.append({"case": "least", "peak MB": 100})
    inference = [row("base", 1, 0), row("merged", 0.985, 0)]
    tables = {"all-linears": group, "q-v": group, "inference": inference, "import": [{"": "import", "s": 0.3}]}
    return {**tables, "probe": [row("forward", 1, 0), row("100-epochs", 2, 0)]}


@pytest.mark.parametrize(
    ("name", "bound", "value", "met"),
    [
        ("step all-linears capaboost-d2 / floor", 1.06, 1.06, True),
        ("step all-linears capaboost-d2 / floor", 1.0599, 1.06, False),
        ("step q-v capaboost-d2 / peft", 0.85, 0.848, True),
        ("memory q-v capaboost-d2 / least", 1.0, 1.01, False),
        ("memory q-v capaboost-d2 / peft", 1, 1.0, True),
        ("inference merged / base", [0.99, 1.01], 0.985, False),
        ("inference merged / base", [0.98, 1.0], 0.985, True),
        ("probe 100-epochs / forward", 2.5, 2.0, True),
        ("import", 0.3, 0.3, True),
        ("step methods adapter-d1 / floor", 1, None, None),
        ("step q-v other / floor", 1, None, None),
        ("inference merged / unmerged", 1, None, None),
        ("memory methods head / least", 1, None, None),
    ],
)
def test_a_goal_is_met_up_to_its_bound_and_open_where_it_was_not_measured(name, bound, value, met):
    (goal,) = judge({name: bound}, tables())
    assert goal["measure"] == name
    assert goal["value"] == (None if value is None else pytest.approx(value))
    assert goal["met"] is met


def test_a_bound_is_said_as_words():
    goals = judge({"import": 0.3, "inference merged / base": [0.99, 1.01]}, tables())
    assert [goal["bound"] for goal in goals] == ["<= 0.3", "0.99 to 1.01"]


def test_the_goals_of_the_configurations_are_some_and_open_before_anything_is_measured():
    for path in ("cpu", "text_cpu", "gpu"):
        goals = yaml.safe_load((CONFIGS / f"{path}.yaml").read_text())["goals"]
        SpeedConfig(goals=goals)
        assert len(goals) >= 2
        assert {goal["met"] for goal in judge(goals, {})} == {None}
