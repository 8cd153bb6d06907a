"""Two processes train one model on texts: what one process would have got, each example scored once."""

from __future__ import annotations

import csv
import json
import os

import pytest
import texts
import torch
import yaml
from safetensors.torch import load_file

from capaboost_vit.nlu.config import stages
from capaboost_vit.nlu.encoded import encode_task
from capaboost_vit.nlu.job import build_text_model
from capaboost_vit.nlu.loader import text_eval_loader
from capaboost_vit.nlu.objectives import make_objective
from capaboost_vit.run import train
from capaboost_vit.training.distributed import ProcessGroup
from capaboost_vit.training.evaluation import evaluate
from capaboost_vit.training.job import as_dict


def rows_of(folder):
    with open(folder / "summary.csv", newline="") as file:
        return [[float(value) for value in row.values()] for row in csv.DictReader(file)]


# one process after the other


class Both:
    """Stands in for the world of two processes, in which each has given what it has."""

    def __init__(self, *tallies):
        self.tallies = tallies

    def gather(self, values):
        name = "rows" if any(values is tally.rows for tally in self.tallies) else "batches"
        parts = [tally.rows if name == "rows" else tally.batches.indices for tally in self.tallies]
        return [value for part in parts for value in part]


@pytest.mark.parametrize(("kind", "split"), [("opinions", "test"), ("scores", "val"), ("unanswered", "test")])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_shares_of_an_evaluation_are_the_whole_of_it(text_material, kind, split, batch_size):
    config = texts.configure(text_material, kind, "nowhere")
    data = encode_task(config)
    objective, _ = make_objective(data)
    model = build_text_model(config, data.task, data.data.classes)
    options = {"prepare": lambda batch: batch, "config": config, "objective": objective}
    encoded = data.encoded[split]
    assert len(encoded) % 2 or kind == "unanswered"
    whole = evaluate(model, text_eval_loader(encoded, batch_size=batch_size), **options)
    tallies = []
    for rank in (0, 1):
        batches = text_eval_loader(encoded, batch_size=batch_size, rank=rank, world_size=2)
        tallies.append(objective.accumulator(batches))
        for inputs, targets in batches:
            output = model.eval()(**inputs)
            logits = output.logits if kind != "unanswered" else torch.stack([output.start_logits, output.end_logits], 1)
            tallies[-1].add(logits.detach(), targets)
    if kind == "opinions":
        found = sum(tally.result(ProcessGroup()).to_dense() for tally in tallies)
        assert torch.equal(found, whole.to_dense())
        return
    found = tallies[0].result(Both(*tallies))
    assert len(found) == len(encoded)
    for row, other, ids in zip(found, whole, encoded.ids, strict=True):
        size = 1 if kind == "scores" else len(ids)
        torch.testing.assert_close(row[..., :size], other[..., :size], rtol=1e-4, atol=1e-5)


# two processes


@pytest.fixture
def both(ready, text_material, tmp_path, without_pictures):
    """The folders of a run in one process and in two, and what the two said."""

    def run(kind, **options):
        settings = {"opt": "sgd", "lr": 1e-2, "epochs": 2, "batch_size": 9, "validation_batch_size": 4, **options}
        first = texts.configure(text_material, kind, tmp_path / "one", **settings)
        train(first)
        values = as_dict(texts.configure(text_material, kind, tmp_path / "two", **settings))
        (tmp_path / "two.yaml").write_text(yaml.safe_dump(values))
        command = ["capaboost", "train-text", "--config", tmp_path / "two.yaml"]
        done = ready.run(command, ranks=2, env={**os.environ, "COLUMNS": "200"}, pictures=False, check=True)
        return tmp_path / "one", tmp_path / "two", done

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("opinions", {"grad_accum_steps": 2, "model_ema": True}),
        ("scores", {"method": texts.UNIPELT}),  # 40 examples in updates of 9: the last one has four
        ("unanswered", {"select": "last", "batch_size": 3}),  # 28 windows: the last update has one
        ("three", {"method": {"name": "full"}, "clip_grad": 0.5}),
        ("tags", {}),
        ("choices", {}),  # a process has batches of other widths, and as many choices as its own examples
    ],
    ids=str,
)
def test_two_processes_get_what_one_gets(both, kind, options):
    first, second, done = both(kind, **options)
    expected, found = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert expected.keys() == found.keys()
    assert max((found[name].float() - value.float()).abs().max().item() for name, value in expected.items()) <= 1e-6
    width = 5 if kind == "scores" else None
    for row, other in zip(rows_of(first), rows_of(second), strict=True):
        assert row[:width] == pytest.approx(other[:width], abs=1e-4)
    expected, found = (json.loads((folder / "result.json").read_text()) for folder in (first, second))
    # of answers that nearly tie, rounding decides about the ranks
    tests = [name for name in expected if name.startswith("test_") and name != "test_spearman"]
    assert {name: found[name] for name in tests} == pytest.approx({name: expected[name] for name in tests}, abs=1e-4)
    assert found["machine"]["processes"] == 2
    assert done.stdout.count("finished: ") == 1
    assert {path.name for path in first.iterdir()} == {path.name for path in second.iterdir()}


@pytest.mark.slow
def test_two_processes_that_hold_half_of_the_frozen_base_get_the_bits_of_those_that_hold_all(
    ready, text_material, tmp_path, without_pictures
):
    files = []
    for fsdp in (False, True):
        name = f"fsdp {fsdp}"
        options = {"epochs": 2, "batch_size": 9, "validation_batch_size": 4, "short_cuts": False, "fsdp": fsdp}
        config = tmp_path / f"{name}.yaml"
        values = as_dict(texts.configure(text_material, "opinions", tmp_path / name, **options))
        config.write_text(yaml.safe_dump(values))
        command = ["capaboost", "train-text", "--config", config]
        ready.run(command, ranks=2, env={**os.environ, "COLUMNS": "200"}, pictures=False, check=True)
        files.append((tmp_path / name / "adapter.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_run_that_leaves_a_merged_model_is_not_sharded_nor_a_stage_that_trains_all(text_material):
    config = texts.configure(text_material, "masked", "nowhere", method={"name": "lora"}, fsdp=True)
    data = encode_task(config)
    with pytest.raises(ValueError, match="--task mlm leaves a merged model, which no process has with --fsdp: leave"):
        build_text_model(config, data.task, data.data.classes)
    config = texts.configure(text_material, "pairs", "nowhere", tapt_epochs=1, fsdp=True)
    assert [stage.fsdp for stage in stages(config)] == [False]


def test_stages_in_two_processes_give_the_model_of_one(both):
    first, second, done = both("pairs", tapt_epochs=1, mlm_lr=1e-2, select="last")
    expected, found = (load_file(folder / "tapt" / "model" / "model.safetensors") for folder in (first, second))
    assert max((found[name] - value).abs().max().item() for name, value in expected.items()) <= 1e-6
    expected, found = (load_file(folder / "adapter.safetensors") for folder in (first, second))
    assert max((found[name].float() - value.float()).abs().max().item() for name, value in expected.items()) <= 1e-5
    assert done.stdout.count("finished: ") == 1
