"""Several data sets as one: its classes, its images, its splits by source, what is refused, and runs by task."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import capaboost_vit
from capaboost_vit.cli.parser import values_of
from capaboost_vit.cli.train import train_parser
from capaboost_vit.io.sources import joined, short_name, sources_of
from capaboost_vit.run import train
from capaboost_vit.training.report_text import score_text
from capaboost_vit.training.task_table import task_table
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import ImageData, few_shot, open_configured, open_data
from capaboost_vit.vision.data.several import join
from capaboost_vit.vision.evaluate import evaluate_images

TWO = "digits:0-2 + digits:5-9"


def test_a_configuration_has_one_text_for_several_words(tmp_path, monkeypatch):
    assert joined(("a", "b/c")) == "a + b/c"
    assert sources_of("a + b/c") == ("a", "b/c")
    assert short_name("a/b + c/d") == "b + d"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a + b").mkdir()
    assert sources_of("a + b") == ("a + b",)  # a local path is one
    assert TrainConfig(data=("digits",)).data == "digits"
    assert TrainConfig(data=("digits", "x")).data == TrainConfig(data="digits + x").data == "digits + x"


def test_words_of_the_command_line_and_lists_of_files_are_one_text(tmp_path):
    file = tmp_path / "m.yaml"
    file.write_text("data: [a, b]\n")
    for typed in (["--data", "a", "b"], ["--data", "a + b"], ["--config", str(file)], ["--data=a", "--data", "a", "b"]):
        values = values_of(train_parser(TrainConfig).parse_args(typed))
        assert TrainConfig(data=values["data"]).data == "a + b"


def test_the_union_has_the_images_of_all_with_the_classes_of_their_source():
    data, first, second = open_data(TWO), open_data("digits:0-2"), open_data("digits:5-9")
    assert data.classes[:4] == ("digits:0-2/0", "digits:0-2/1", "digits:0-2/2", "digits:5-9/5")
    assert data.task_classes == (3, 5)
    assert data.tasks == ("digits:0-2",) * 3 + ("digits:5-9",) * 5
    for expression in ("train", "val", "train[:10]", "mixed(train)[90%:]", "fold(train, 2/5)", "train+val"):
        split, parts = data.split(expression), [first.split(expression), second.split(expression)]
        assert split.labels == (*parts[0].labels, *(3 + label for label in parts[1].labels))
        assert len(split.names) == len({*split.names})
        images = [part.image(i) for part in parts for i in (0, len(part) - 1)]
        places = [0, len(parts[0]) - 1, len(parts[0]), len(split) - 1]
        for place, image in zip(places, images, strict=True):
            assert np.array_equal(split.image(place), image)
    assert {*data.splits} == {"train", "val", "test"}
    drawn = few_shot(data.split("train"), 4, seed=0, classes=data.classes)
    assert np.bincount(drawn.labels).tolist() == [4] * 8


def test_a_range_of_values_is_that_of_all_sources():
    data = open_configured({"data": TWO, "value_range": (0, 100)})
    assert data.split("train[:3]").value_range == data.split("train").value_range is not None


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digits + digits", "--data has several sources that are called 'digits': name each once"),
        ("digits + ", r"--data 'digits \+ ' has a \+ without a data set beside it"),
        ("digits + no such", "no data at 'no such'"),
    ],
)
def test_what_makes_no_union_is_refused_in_one_line(spec, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_data(spec)


def test_numbers_are_no_task_of_several():
    numbers = ImageData("heights", (), {}, task="regression")
    with pytest.raises(ValueError, match="and heights is for regression: train on it alone"):
        join("digits + heights", [open_data("digits"), numbers])


def test_accuracy_by_task_is_that_of_its_rows():
    confusion = torch.tensor([[3, 1, 2, 0], [0, 4, 0, 0], [1, 0, 5, 1], [0, 0, 0, 0]]).to_sparse().coalesce()
    rows = task_table(confusion, ["a", "a", "b", "c"])
    assert rows[0] == {"task": "a", "accuracy": 70.0, "retrieved": 80.0, "right": 7, "total": 10}
    assert rows[1]["accuracy"] == rows[1]["retrieved"] == pytest.approx(500 / 7)
    assert len(rows) == 2


def test_a_run_on_several_sources_is_one_classifier_with_a_table_by_task(configure, tmp_path, without_pictures, capsys):
    config = configure(data=("digits:0-2", "digits:5-6"), epochs=3)
    result = train(config)
    assert result["config"]["data"] == result["data"]["spec"] == "digits:0-2 + digits:5-6"
    assert result["data"]["classes"] == 5
    rows = result["test"]["per_task"]
    assert [row["task"] for row in rows] == ["digits:0-2", "digits:5-6"]
    assert sum(row["right"] for row in rows) == result["test_right"]
    assert sum(row["total"] for row in rows) == result["test_total"] == result["data"]["splits"]["test"]["images"]
    log = capsys.readouterr().err
    assert f"test of digits:5-6: accuracy {rows[1]['accuracy']:.2f} ({rows[1]['right']} of {rows[1]['total']})" in log
    header = capaboost_vit.read_header(tmp_path / "a run" / "adapter.safetensors")
    assert header["class_names"][-1] == "digits:5-6/6"
    scores = evaluate_images(tmp_path / "a run")
    assert scores["per_task"] == rows
    assert "task" in score_text(scores)
    assert f"| digits:5-6 | {rows[1]['accuracy']:.2f} |" in (tmp_path / "a run" / "README.md").read_text()
    # one source alone, whose classes are numbers, means its rows, not the first ones
    alone = evaluate_images(tmp_path / "a run", data="digits:5-6")
    assert alone["accuracy"] == rows[1]["accuracy"]
    assert "per_task" not in alone
    assert json.loads((tmp_path / "a run" / "predictions.json").read_text())["classes"][0] == "digits:0-2/0"
