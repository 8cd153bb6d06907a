"""`capaboost tune`: candidates in rounds on val, and a command that trains the winner to what it came to."""

from __future__ import annotations

import json
import shlex

import pytest
from PIL import Image

from capaboost_vit.cli import _parser
from capaboost_vit.cli.method import method_options
from capaboost_vit.cli.parser import values_of
from capaboost_vit.run import train
from capaboost_vit.study.config import TuneConfig
from capaboost_vit.study.tune import command, method_named, tune
from capaboost_vit.study.work import work
from capaboost_vit.vision.config import TrainConfig

SMALL = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.mark.usefixtures("without_pictures")
def test_candidates_are_halved_on_val_and_the_command_trains_the_winner_to_its_score(base, pictures, tmp_path, capsys):
    config = TuneConfig(output=str(tmp_path / "tune"), methods=("lora", "head"), ranks=(2,), rates=("x1", "2e-4"))
    options = {"data": str(pictures), "model": "vit_tiny_patch16_224", "initial_checkpoint": str(base), "epochs": 9}
    options |= {"model_kwargs": SMALL, "img_size": 16, "batch_size": 48, "val_interval": 9}
    computed = []
    rows = tune(config, options, lambda study: computed.append(work(study, config)))
    assert computed == [4, 2, 1]
    assert [row.length for row in rows] == [9, 3, 1, 1]
    assert rows[0].candidate.options["lr"] > 2e-4
    assert {trial.config["test_split"] for row in rows for trial in row.candidate.trials} == {None}
    assert len(json.loads((tmp_path / "tune" / "tune.json").read_text())) == 4
    assert "round 1 of 3: 4 candidates, 1 epoch each" in capsys.readouterr().out
    # the same command once more
    computed.clear()
    assert tune(config, options, lambda study: computed.append(work(study, config))) == rows
    assert computed == [0, 0, 0]
    typed = shlex.split(command(options, rows[0]))
    assert typed[:2] == ["capaboost", "train"]
    arguments = _parser().parse_args([*typed[1:], "--output", str(tmp_path / "winner")]).train
    values = {**values_of(arguments), "method": method_options(arguments)}
    assert values.pop("folds") is None
    result = train(TrainConfig(**values))
    assert result["val_accuracy"] == rows[0].score
    assert result["test_total"] == 6


def test_a_name_alone_is_the_plain_method_and_capaboost_before_it_the_masked_one():
    assert method_named("lora", 4).as_given() == {
        "name": "lora",
        "num_branches": 1,
        "density": 1.0,
        "pattern": "random",
        "rank": 4,
    }
    assert method_named("capaboost-adapter", 8).as_given() == {"name": "adapter", "bottleneck": 8}
    assert method_named("head", 8).as_given() == {"name": "head"}
    with pytest.raises(ValueError, match=r"--methods: unknown method 'lorra' .did you mean 'lora'"):
        method_named("lorra", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": ("fast",)}, "--rates: 'fast' is neither a rate such as 3e-3 nor a multiple such as x2"),
        ({"rates": ("x0",)}, "--rates: 'x0' is neither a rate"),
        ({"methods": ()}, "--methods is missing: name at least one"),
        ({"ranks": (0,)}, "--ranks must be at least 1, got 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TuneConfig(**options)


def test_numbers_have_no_accuracy_to_choose_by(tmp_path):
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").write_text(f"{name}.png 0.5\n")
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    with pytest.raises(
        ValueError, match=r"is for regression, and studies tell methods apart by accuracy, of one class"
    ):
        tune(TuneConfig(), {"data": str(tmp_path), "task": "regression"}, print)


def test_data_without_val_are_refused_with_what_to_type(pictures):
    with pytest.raises(
        ValueError, match=r"has no split 'dev' to choose by: say --train-split 'mixed\(train\)\[:80%\]'"
    ):
        tune(TuneConfig(), {"data": str(pictures), "val_split": "dev"}, print)
