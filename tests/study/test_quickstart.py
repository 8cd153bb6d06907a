"""The quickstart tells its story once: pretrains, adapts four ways, and remembers what it has done."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import statistics
from pathlib import Path

import pytest
from PIL import Image

from capaboost_vit.cli import main
from capaboost_vit.study import quickstart as module

METHODS = ["head-only", "lora", "capaboost-lora", "capaboost-adapter"]
RUNS = ["base", *(f"{method}-{seed}" for seed in range(2) for method in METHODS)]


@contextlib.contextmanager
def tiny_runs():
    """Makes the runs tiny; gives the list of folders that are trained."""
    folders, train = [], module.train

    def spy(config):
        folders.append(config.output.rpartition("/")[2])
        return train(config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "SEEDS", 2)
        patch.setitem(module._BASE, "epochs", 1)
        patch.setitem(module._ADAPT, "epochs", 1)
        small = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
        patch.setitem(module._COMMON, "model_kwargs", small)
        patch.setattr("capaboost_vit.training.log.Log.figure", lambda *_: None)  # pictures take most of the time
        patch.setattr(module, "train", spy)
        yield folders


@pytest.fixture
def trained():
    with tiny_runs() as folders:
        yield folders


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """One quickstart, which no test changes: its folder, the folders that were trained, what it returns and prints."""
    folder, said = tmp_path_factory.mktemp("told") / "quick [start] $1", io.StringIO()
    with tiny_runs() as folders, contextlib.redirect_stdout(said):
        runs = module.quickstart(folder)
    return folder, folders, runs, said.getvalue()


@pytest.fixture
def copied(told, tmp_path):
    """The folder of a quickstart that was told there."""
    folder = shutil.copytree(told[0], tmp_path / "copied")
    for path in folder.rglob("result.json"):
        path.write_text(path.read_text().replace(str(told[0]), str(folder)))
    return folder


def test_the_whole_story_is_told(told):
    folder, trained, _, out = told
    assert trained == RUNS
    table = [line for line in out.splitlines() if line.count("│") == 7]
    assert [line.split("│")[1].strip() for line in table] == [
        "head only",
        "LoRA",
        "CapaBoost-LoRA",
        "CapaBoost-Adapter",
    ]
    accuracies = {}
    for line, name in zip(table, METHODS, strict=True):
        results = [json.loads((folder / f"{name}-{seed}" / "result.json").read_text()) for seed in range(2)]
        cells = [cell.strip() for cell in line.split("│")[2:7]]
        accuracies[name] = [result["test_accuracy"] for result in results]
        mean, spread = statistics.mean(accuracies[name]), statistics.stdev(accuracies[name])
        difference = mean - statistics.mean(accuracies["lora"]) if "lora" in accuracies else None
        assert cells[0] == f"{results[0]['parameters']['trained']:,}"
        assert cells[2] == f"{mean:.1f} ± {spread:.1f}"
        assert name in ("head-only", "lora") or cells[3] == f"{difference:+.1f}"
    differences = [a - b for a, b in zip(accuracies["capaboost-lora"], accuracies["lora"], strict=True)]
    half = 12.706205 * statistics.stdev(differences) / 2**0.5  # Student's t of one degree of freedom
    low, high = (statistics.mean(differences) + side * half for side in (-1, 1))
    assert f"95 % interval {low:+.1f} to {high:+.1f}" in out
    for text in ("tensorboard --logdir", "capaboost eval", "capaboost merge", "capaboost train --model", str(folder)):
        assert text in out
    with Image.open(folder / "learning_curves.png") as image:
        assert image.width > 500


def test_what_it_says_to_type_next_works(told, tmp_path, capsys):
    folder = told[0]
    result = json.loads((folder / "capaboost-lora-0" / "result.json").read_text())
    assert main(["eval", str(folder / "capaboost-lora-0")]) == 0
    assert f"({result['test_right']} of {result['test_total']})" in capsys.readouterr().out
    assert main(["merge", str(folder / "capaboost-lora-0"), "--output", str(tmp_path / "merged.safetensors")]) == 0


def test_a_second_call_runs_nothing_again_and_shows_the_same(told, trained, capsys):
    folder, _, first, shown = told
    assert module.quickstart(folder).equals(first)
    assert shown.endswith(capsys.readouterr().out)
    assert main(["quickstart", "--output", str(folder)]) == 0
    assert shown.endswith(capsys.readouterr().out)
    assert trained == []


def test_another_seed_runs_everything_again(copied, trained, monkeypatch):
    asked = []

    def take_an_earlier_one(config):
        """Instead of training, which the first seeds show."""
        name, _, seed = Path(config.output).name.rpartition("-")
        asked.append((name or seed, config.seed))
        if name:
            shutil.copytree(copied / f"{name}-{int(seed) - 3}", config.output)
        return json.loads((Path(config.output) / "result.json").read_text())

    monkeypatch.setattr(module, "train", take_an_earlier_one)
    module.quickstart(copied, seed=3)
    assert asked == [("base", 3), *((method, seed) for seed in range(3, 5) for method in METHODS)]


@pytest.mark.parametrize("gone", ["base.safetensors", "base/result.json", "lora-1/result.json"])
def test_what_is_missing_is_run_again_and_only_that(copied, trained, gone):
    (copied / gone).unlink()
    module.quickstart(copied)
    assert trained == [gone.partition("/")[0].removesuffix(".safetensors")]
    assert (copied / gone).exists()


def test_all_methods_start_from_the_same_weights_and_data(told):
    folder, _, runs, _ = told
    assert {config["initial_checkpoint"] for config in runs.config} == {str(folder / "base.safetensors")}
    assert len({data["splits"][module._ADAPT["test_split"]]["sha256"] for data in runs.data}) == 1
    assert {config["epochs"] for config in runs.config} == {1}
    plain, boosted = (methods[0] for methods in runs.method[1:3])
    assert (plain["num_branches"], plain["density"]) == (1, 1.0)
    assert (boosted["num_branches"], boosted["pattern"], boosted["coefficients"]) == (2, "sign", "rank")
    plain, boosted = (parameters["trained"] for parameters in runs.parameters[1:3])
    coefficients = 1 * 2 * 8  # one block, q and v of rank 8
    assert boosted == plain + coefficients


@pytest.mark.slow
def test_the_real_quickstart_learns_and_every_adaptation_beats_the_head(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "SEEDS", 2)
    runs = module.quickstart(tmp_path)
    base = json.loads((tmp_path / "base" / "result.json").read_text())
    assert base["test_accuracy"] > 90
    means = runs.groupby("name").test_accuracy.mean()
    assert means.min() > 45  # chance is 20; last bits of the base move it by 10
    assert means.drop("head only").min() > means["head only"] + 5
    assert means["CapaBoost-LoRA"] > means["LoRA"] - 3
