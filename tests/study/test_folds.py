"""`capaboost train --folds`: each fold a run that can be repeated by hand, and one table of all."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

from capaboost_vit.cli import main
from capaboost_vit.run import train
from capaboost_vit.study.folds import train_folds
from capaboost_vit.training.metrics import wilson_interval

OPTIONS = {"seed": 1, "val_split": None, "max_steps": 2}


@pytest.mark.usefixtures("without_pictures")
def test_every_image_is_tested_once_and_the_table_is_of_all(configure, tmp_path, monkeypatch):
    config = configure(**OPTIONS)
    begun = []

    def traced(run):
        begun.append((run.train_split, run.test_split))
        if len(begun) == 2:
            raise KeyboardInterrupt
        return train(run)

    monkeypatch.setattr("capaboost_vit.study.folds.train", traced)
    with pytest.raises(KeyboardInterrupt):
        train_folds(config, 2)
    monkeypatch.undo()
    assert begun == [(f"all_but_fold(train, {k}/2, 1)", f"fold(train, {k}/2, 1)") for k in (1, 2)]
    with pytest.raises(FileExistsError, match=r"fold1 holds .* of another run: add --resume"):
        train_folds(config, 2)
    table = train_folds(configure(**OPTIONS, resume=True), 2)
    output = tmp_path / "a run"
    record = json.loads((output / "folds.json").read_text())
    right, total = record["pooled"]["right"], record["pooled"]["total"]
    assert total == 48
    assert right == sum(fold["test_right"] for fold in record["folds"])
    assert record["pooled"]["interval"] == pytest.approx(wilson_interval(right, total))
    scores = [fold["test_accuracy"] for fold in record["folds"]]
    assert record["test_accuracy"]["mean"] == pytest.approx(sum(scores) / 2)
    assert f"({right} of 48), 95 % interval" in table
    by_hand = configure(
        **OPTIONS,
        train_split="all_but_fold(train, 2/2, 1)",
        test_split="fold(train, 2/2, 1)",
        output=str(tmp_path / "by hand"),
    )
    train(by_hand)
    first, second = (load_file(folder / "adapter.safetensors") for folder in (output / "fold2", tmp_path / "by hand"))
    assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.usefixtures("without_pictures")
def test_a_rate_is_searched_in_the_first_fold_and_taken_in_the_others(configure, monkeypatch, tmp_path):
    monkeypatch.setattr("capaboost_vit.training.lr_search.save_figure", lambda *_: None)
    train_folds(configure(lr="auto", batch_size=1, max_steps=128), 2)
    assert (tmp_path / "a run" / "fold1" / "lr_search.json").exists()
    assert not (tmp_path / "a run" / "fold2" / "lr_search.json").exists()
    first, second = json.loads((tmp_path / "a run" / "folds.json").read_text())["lr"]
    assert first == second


def test_one_fold_is_none(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--data", "digits", "--folds", "1"])
    assert "--folds must be at least 2, got 1" in capsys.readouterr().err
