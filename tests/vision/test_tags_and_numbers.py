"""A finished run on tags and one on numbers: scored, predicted with views, sorted, merged, explained."""

from __future__ import annotations

import csv
import json
import re

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from sklearn import metrics

from capaboost_vit.cli import main
from capaboost_vit.interop.export import export_run
from capaboost_vit.run import train
from capaboost_vit.training.report_text import score_text
from capaboost_vit.training.reports import number_report, tag_report
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.evaluate import evaluate_images
from capaboost_vit.vision.mistakes import Question, answer_lines, worst_outputs
from capaboost_vit.vision.predict import Prediction, predict_images
from capaboost_vit.vision.saved import merge_adapter, open_saved
from capaboost_vit.vision.sort import Sorter
from capaboost_vit.vision.targets import Scale
from capaboost_vit.vision.test_time_augmentation import MeanOfViews

TAGS = ("blue", "green", "red")
TINY_VIT = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory):
    """Folders of a run by task, on lists of 24 / 8 / 16 pictures whose channels are tags, and whose red is a number."""
    draw, folders = np.random.default_rng(0), {}
    for task in ("multi-label", "regression"):
        data = tmp_path_factory.mktemp(task)
        if task == "multi-label":
            (data / "classes.txt").write_text("\n".join(TAGS))
        for split, count in (("train", 24), ("val", 8), ("test", 16)):
            lines = []
            for i in range(count):
                tags = [tag for tag in range(3) if (i >> tag) & 1]
                pixels = draw.integers(0, 110, (18, 20, 3)) + 100 * np.isin([2, 1, 0], tags)
                Image.fromarray(pixels.astype(np.uint8)).save(data / f"{split}{i}.png")
                label = ",".join(map(str, tags)) or "-" if task == "multi-label" else f"{500 + pixels[..., 0].mean()}"
                lines.append(f"{split}{i}.png {label}\n")
            (data / f"{split}.txt").write_text("".join(lines))
        folders[task] = tmp_path_factory.mktemp("runs") / task
        model = {"model": "vit_tiny_capaboost_lora", "model_kwargs": TINY_VIT, "initial_checkpoint": str(base)}
        trained(folders[task], data, task, epochs=4, **model)
    return folders


def trained(output, data, task, **options):
    """What a small run returns; it draws nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("capaboost_vit.training.log.Log.figure", lambda *_: None)
        patch.setattr("capaboost_vit.training.result.save_figure", lambda *_: None)
        where = {"data": str(data), "task": task, "output": str(output)}
        return train(TrainConfig(**where, img_size=16, batch_size=8, lr=1e-2, **options))


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def result_of(run):
    return json.loads((run / "result.json").read_text())


# scores


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_the_scores_of_tags_are_scikit_learns_on_the_table(runs, tmp_path, capsys, threshold):
    files = [str(tmp_path / name) for name in ("scores.json", "pictures.csv")]
    assert main(["eval", str(runs["multi-label"]), "--threshold", str(threshold), "--output", *files]) == 0
    scores, rows = json.loads((tmp_path / "scores.json").read_text()), rows_of(files[1])
    expected = np.array([[tag in row["label"].split(";") for tag in TAGS] for row in rows]).astype(int)
    shares = np.array([[float(row[f"p({tag})"]) for tag in TAGS] for row in rows])
    predicted = (shares >= threshold).astype(int)
    assert [row["prediction"] for row in rows] == [
        ";".join(tag for tag, yes in zip(TAGS, flags, strict=True) if yes) for flags in predicted
    ]
    assert scores["mAP"] == pytest.approx(100 * metrics.average_precision_score(expected, shares))
    for average in ("macro", "micro"):
        f1 = metrics.f1_score(expected, predicted, average=average, zero_division=0)
        assert scores[f"{average}_f1"] == pytest.approx(100 * f1)
    assert scores["exact_match"] == pytest.approx(100 * metrics.accuracy_score(expected, predicted))
    assert (scores["total"], scores["threshold"], scores["task"]) == (16, threshold, "multi-label")
    oracle = metrics.classification_report(expected, predicted, output_dict=True, zero_division=0, target_names=[*TAGS])
    for place, row in enumerate(scores["per_class"]):
        asked = oracle[row["class"]]
        assert [row["precision"], row["recall"], row["f1"]] == pytest.approx(
            [100 * asked[name] for name in ("precision", "recall", "f1-score")]
        )
        assert row["ap"] == pytest.approx(100 * metrics.average_precision_score(expected[:, place], shares[:, place]))
        assert row["support"] == asked["support"]
    printed = capsys.readouterr().out
    assert printed.startswith(f"mAP {scores['mAP']:.2f} %  macro F1 {scores['macro_f1']:.2f} %")
    assert re.search(r"\ntag +AP % +precision % +recall % +F1 % +support\n", printed)
    if threshold == 0.5:
        stored = result_of(runs["multi-label"])
        assert stored["test"].keys() == scores.keys() - {"model", "data", "split", "tta"}
        assert [stored["test"]["mAP"], scores["mAP"]] == pytest.approx([stored["test_mAP"]] * 2)
        assert stored["test"]["per_class"][0] == pytest.approx(scores["per_class"][0])


def test_the_scores_of_numbers_are_scikit_learns_on_the_table(runs, tmp_path, capsys):
    files = [str(tmp_path / name) for name in ("scores.json", "pictures.csv")]
    assert main(["eval", str(runs["regression"]), "--output", *files]) == 0
    scores, rows = json.loads((tmp_path / "scores.json").read_text()), rows_of(files[1])
    expected, given = (np.array([float(row[name]) for row in rows]) for name in ("label", "prediction"))
    assert scores["r2"] == pytest.approx(metrics.r2_score(expected, given), rel=1e-5)
    assert scores["mae"] == pytest.approx(metrics.mean_absolute_error(expected, given), rel=1e-5)
    assert scores["rmse"] == pytest.approx(metrics.root_mean_squared_error(expected, given), rel=1e-5)
    mean = open_saved(runs["regression"]).scale.mean
    reference = metrics.root_mean_squared_error(expected, np.full(16, mean))
    assert (scores["rmse_of_mean"], scores["total"]) == (pytest.approx(reference, rel=1e-5), 16)
    stored = result_of(runs["regression"])["test"]
    assert (stored.pop("task"), stored) == ("regression", pytest.approx({name: scores[name] for name in stored}))
    assert f"RMSE {scores['rmse']:.6g}  (of the training split's mean {reference:.6g})" in capsys.readouterr().out


def test_a_tag_that_no_picture_has_has_no_average_precision():
    logits, targets = torch.tensor([[2.0, -1.0], [-2.0, 3.0]]), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    report = tag_report(logits, targets, ("a", "[b]"))
    assert [row["ap"] for row in report["per_class"]] == [100.0, None]
    assert (report["mAP"], report["exact_match"]) == (100.0, 50.0)
    assert score_text(report).splitlines()[-1].split() == ["[b]", "0.00", "0.00", "0.00", "0"]


def test_who_says_the_mean_has_its_error():
    targets = torch.tensor([1.0, 3.0, 8.0])
    report = number_report(torch.full((3,), 4.0), targets, mean=4.0)
    assert report["rmse"] == pytest.approx(report["rmse_of_mean"])
    assert report["r2"] == 0


@pytest.mark.parametrize(
    ("task", "options", "said"),
    [
        ("regression", ["--threshold", "0.4"], "--threshold is for several tags per picture, and .* is for regression"),
        ("multi-label", ["--data", "digits"], "--task multi-label: digits has one class per image"),
        ("regression", ["--data", "digits"], "--task regression: digits has one class per image"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_in_a_line(runs, capsys, task, options, said):
    assert main(["eval", str(runs[task]), *options]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert re.search(said, printed)


# views


def test_views_of_tags_and_numbers_are_averaged_as_what_they_stand_for():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    images = torch.randn(5, 3, 3, 2, 2)
    views = torch.stack([model(images[:, i]) for i in range(3)])
    torch.testing.assert_close(MeanOfViews(model, 1.0, "regression")(images), views.mean(0))
    found = MeanOfViews(model, 1.0, "multi-label")(images)
    torch.testing.assert_close(found.sigmoid(), views.sigmoid().mean(0))
    far = torch.full((1, 2, 3, 2, 2), 1e4)
    assert MeanOfViews(model, 1.0, "multi-label")(far).isfinite().all()


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_predictions_with_views_are_those_of_the_evaluation(runs, tmp_path, task):
    evaluate_images(runs[task], tta="flip", table=tmp_path / "t.csv")
    rows = rows_of(tmp_path / "t.csv")
    predictions = predict_images(runs[task], [row["image"] for row in rows], tta="flip", tag_threshold=0.0)
    plain = predict_images(runs[task], [row["image"] for row in rows], tag_threshold=0.0)
    assert predictions != plain
    for row, prediction in zip(rows, predictions, strict=True):
        if task == "regression":
            assert float(row["prediction"]) == pytest.approx(prediction.number, rel=1e-5)
        else:
            said = dict(zip(prediction.classes, prediction.probabilities, strict=True))
            assert [float(row[f"p({tag})"]) for tag in TAGS] == pytest.approx([said[tag] for tag in TAGS], abs=1e-6)


# pictures into folders


def test_a_picture_is_copied_into_the_folder_of_each_of_its_tags(tmp_path):
    pictures = [tmp_path / f"{i}.png" for i in range(3)]
    for i, picture in enumerate(pictures):
        Image.new("RGB", (4, 4), (i, 0, 0)).save(picture)
    rows = [
        Prediction(pictures[0], ("wet", "green"), (0.9, 0.6)),
        Prediction(pictures[1], (), ()),
        Prediction(pictures[2], ("wet",), (0.7,)),
    ]
    for copied in (3, 0):
        sorter = Sorter(tmp_path / "out", of_tags=True)
        assert list(sorter.sorting(rows)) == rows
        assert (sorter.pictures, sorter.there) == (copied, 3 - copied)
        if copied:
            assert sorter.summary().endswith("3 pictures copied into " + f"{tmp_path / 'out'} (wet 2, green 1, none 1)")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert found == {"wet/0.png", "green/0.png", "none/1.png", "wet/2.png"}


def test_pictures_are_sorted_by_tags_and_not_by_numbers(runs, tmp_path, capsys):
    pictures = result_of(runs["multi-label"])["data"]["spec"]
    command = ["predict", str(runs["multi-label"]), pictures, "--sort-into", str(tmp_path / "out")]
    assert main(command) == 0
    assert "sorted: 48 pictures copied into" in capsys.readouterr().out
    assert {folder.name for folder in (tmp_path / "out").iterdir()} <= {*TAGS, "none"}
    command[1] = str(runs["regression"])
    assert main(command) == 2
    assert "--sort-into is for classes and tags, and " in capsys.readouterr().err


# merged


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_a_merged_folder_says_what_its_outputs_mean_and_timm_loads_it(runs, tmp_path, capsys, task):
    folder = merge_adapter(runs[task], tmp_path / "merged")
    saved, stored = open_saved(folder), json.loads((folder / "config.json").read_text())
    assert (saved.task, stored["task"]) == (task, task)
    assert saved.scale == open_saved(runs[task]).scale
    assert saved.classes == (TAGS if task == "multi-label" else ())
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(model(images), open_saved(runs[task]).model(images), atol=1e-5, rtol=1e-4)
    data = result_of(runs[task])["data"]["spec"]
    scores = [evaluate_images(source, data=data) for source in (runs[task], folder)]
    for found in scores:
        del found["model"]
    names = [name for name, value in scores[0].items() if isinstance(value, float)]
    assert [scores[1][name] for name in names] == pytest.approx([scores[0][name] for name in names], rel=1e-3)
    pictures = [f"{data}/test{i}.png" for i in range(4)]
    for one, other in zip(*(predict_images(path, pictures) for path in (runs[task], folder)), strict=True):
        assert one.classes == other.classes
        assert one.number is None or one.number == pytest.approx(other.number, rel=1e-4)


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_a_merged_folder_is_trained_further(runs, tmp_path, task):
    folder, data = merge_adapter(runs[task], tmp_path / "merged"), result_of(runs[task])["data"]["spec"]
    options = {"method": {"name": "lora"}, "epochs": 1, "val_split": None}
    further = trained(tmp_path / "further", data, task, model=f"local-dir:{folder}", **options)
    saved = open_saved(tmp_path / "further")
    assert (saved.task, saved.scale) == (task, open_saved(folder).scale)
    score = "mAP" if task == "multi-label" else "r2"
    assert evaluate_images(tmp_path / "further")[score] == pytest.approx(further[f"test_{score}"], rel=1e-4)


@pytest.mark.slow
def test_an_exported_program_says_how_its_number_is_read(runs, tmp_path):
    export_run(runs["regression"], tmp_path / "program.pt2", format="torch-export")
    stored, saved = json.loads((tmp_path / "program.json").read_text()), open_saved(runs["regression"])
    assert (stored["task"], Scale(*stored["scale"])) == ("regression", saved.scale)


def test_a_folder_with_another_task_or_no_scale_is_named(runs, tmp_path):
    folder = merge_adapter(runs["regression"], tmp_path / "merged")
    config, text = folder / "config.json", (folder / "config.json").read_text()
    for change, said in (
        ({"task": "counting"}, r"task in .*config\.json must be classification, multi-label or regression"),
        ({"scale": None}, r"scale in .*config\.json must be"),
        ({"scale": [1.0, 0.0]}, r"numbers are scaled with mean 1\.0 and std 0\.0"),
    ):
        config.write_text(json.dumps({**json.loads(text), **change}))
        with pytest.raises((ValueError, TypeError), match=said):
            open_saved(folder)


def test_a_scale_is_of_finite_numbers():
    with pytest.raises(ValueError, match="both must be finite"):
        Scale(float("nan"), 1.0)


# explained


def test_the_worst_tags_are_the_wrong_decisions_with_the_largest_loss(runs):
    saved = open_saved(runs["multi-label"])
    logits = torch.tensor([[2.0, -1.0, 0.5], [-3.0, 4.0, 0.1]])
    targets = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    assert worst_outputs(saved, logits, targets) == [
        Question(1, True, 0),
        Question(0, True, 1),
        Question(0, False, 2),
        Question(1, False, 2),
    ]
    lines = answer_lines(saved, Question(0, False, 2), logits[0].sigmoid(), TAGS, "a/b.png")
    assert [text for text, _ in lines] == ["red: no", "said yes  62.2 %", "b.png"]


def test_the_worst_numbers_have_the_largest_errors(runs):
    saved = open_saved(runs["regression"])
    outputs, targets = torch.tensor([0.0, 1.0, -2.0]), torch.tensor([0.5, -1.0, -2.0])
    worst = worst_outputs(saved, outputs, targets)
    assert [(question.place, question.output) for question in worst] == [(1, None), (0, None), (2, None)]
    assert worst[0].label == pytest.approx(saved.scale.mean - saved.scale.std)
    lines = answer_lines(saved, Question(0, 2.5), torch.tensor([0.0]), ("0",), "b.png")
    assert [text for text, _ in lines] == ["is 2.5", f"said {saved.scale.mean:.6g}", "b.png"]


@pytest.mark.parametrize("task", ["multi-label", "regression"])
def test_mistakes_and_pictures_are_explained(runs, tmp_path, task):
    assert main(["explain", str(runs[task])]) == 0
    with Image.open(runs[task] / "mistakes.png") as sheet:
        assert sheet.width > 700
    picture = result_of(runs[task])["data"]["spec"] + "/test0.png"
    assert main(["explain", str(runs[task]), picture, "--output", str(tmp_path / "why.png")]) == 0
    assert (tmp_path / "why.png").is_file()
