"""Whole runs of the methods of other papers: they learn, and their files give the numbers of their results."""

from __future__ import annotations

import csv

import pytest
from scored import counted

from capaboost_vit.run import train

PLUS = {
    "name": "adapter",
    "targets": ["block"],
    "placement": "sequential",
    "activation": "gelu",
    "learned_scale": "channel",
    "init": "houlsby",
    "drop_path": 0.1,
}


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.parametrize(
    "method",
    [{"name": "norm"}, {"name": "ssf"}, PLUS, {"name": "lora", "pattern": "sign", "rescale": "norm"}],
    ids=lambda method: method["name"],
)
def test_a_run_learns_and_is_evaluated_from_its_file(configure, tmp_path, method):
    found = train(configure(model="vit_tiny_patch16_224", method=method, epochs=4))
    with open(tmp_path / "a run" / "summary.csv", newline="") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert losses[-1] < losses[0]
    assert counted(tmp_path / "a run") == (found["test_right"], found["test_total"])
    assert {name: found["method"][0].get(name) for name in method if name != "name"} == {
        name: value for name, value in method.items() if name != "name"
    }
