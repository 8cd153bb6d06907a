"""Several tags of an image, and numbers: from every kind of source, through loss, scores, a run and its predictions."""

from __future__ import annotations

import csv
import gc

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from torch.nn import functional as F

from capaboost_vit.run import train
from capaboost_vit.training.metrics import tag_scores
from capaboost_vit.training.outputs import multi_label
from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.predict import predict_images, write_predictions
from capaboost_vit.vision.targets import Scale

# `datasets` leaves metadata.csv open
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
TAGS = [("blue",), ("blue", "red"), (), ("red",)]
NUMBERS = [0.5, 2.25, -1.0, 3.0]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    gc.collect()


def colour(tags, number=0):
    return Image.new(
        "RGB", (20, 18), (200 if "red" in tags else 20, int(20 + 40 * (number + 1)), 200 if "blue" in tags else 20)
    )


def write(folder, rows, header, count=4):
    """Splits of pictures with metadata.csv; `rows(i)` gives the cells behind the file name."""
    for split in ("train", "val", "test"):
        (folder / split).mkdir(parents=True)
        with open(folder / split / "metadata.csv", "w", newline="") as file:
            table = csv.writer(file)
            table.writerow(("file_name", *header))
            for i in range(count):
                colour(TAGS[i % 4], NUMBERS[i % 4]).save(folder / split / f"{i}.png")
                table.writerow((f"{i}.png", *rows(i % 4)))
    return str(folder)


def tags_of(data, split="train"):
    return [tuple(data.classes[tag] for tag in tags) for tags in data.split(split).labels]


@pytest.mark.parametrize("separator", [";", "|", " ; "])
def test_tags_are_split_only_when_asked_for(tmp_path, separator):
    spec = write(tmp_path / "d", lambda i: (separator.join(TAGS[i]) or "none",), ("label",))
    plain = open_data(spec)
    assert plain.task == "classification"
    assert "if these are several tags, say --task multi-label" in plain.left_out[0]
    data = open_data(spec, task="multi-label")
    assert (data.task, data.classes) == ("multi-label", ("blue", "none", "red"))
    assert [tuple(tag for tag in tags if tag != "none") for tags in tags_of(data)] == TAGS


def test_columns_of_0_and_1_are_a_tag_each(tmp_path):
    cells = [[int(tag in tags) for tag in ("blue", "red")] for tags in TAGS]
    spec = write(tmp_path / "d", lambda i: (*cells[i], 7), ("blue", "red", "age"))
    for column in (None, "blue,red"):
        data = open_data(spec, task="multi-label", label_column=column)
        assert (data.classes, tags_of(data)) == (("blue", "red"), TAGS)
        assert "2 columns of 0 and 1 are a tag each (blue, red)" in data.left_out[-1]
    with pytest.raises(ValueError, match=r"'age' of .* is no tag: it holds others than 0 and 1"):
        open_data(spec, task="multi-label", label_column="blue,age")


def test_a_column_of_lists_is_tags_and_the_log_says_so(tmp_path):
    pictures = [colour(tags) for tags in TAGS]
    table = datasets.Dataset.from_dict({"image": pictures, "tags": [list(tags) for tags in TAGS]})
    table.cast_column("image", datasets.Image()).to_parquet(tmp_path / "train.parquet")
    data = open_data(str(tmp_path / "train.parquet"))
    assert (data.task, tags_of(data)) == ("multi-label", TAGS)
    assert "holds lists, so its entries are tags: --task multi-label" in data.left_out[0]


def test_folders_are_tags_when_asked_for_and_a_name_is_one_image(tmp_path):
    for i in range(20):
        for tag in TAGS[(1, 0, 3)[i % 3]]:
            (tmp_path / tag).mkdir(exist_ok=True)
            Image.new("RGB", (20, 18), (i, i, i)).save(tmp_path / tag / f"{i}.png")
    data = open_data(str(tmp_path), task="multi-label")
    found = {}
    for split, part in data.splits.items():
        found |= {name.split("/")[1]: tags for name, tags in zip(part.names, tags_of(data, split), strict=True)}
    assert found == {f"{i}.png": TAGS[(1, 0, 3)[i % 3]] for i in range(20)}
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 16, "val": 2, "test": 2}
    assert "7 of 20 images stand in several of them" in data.left_out[-1]
    Image.new("RGB", (20, 18), (99, 0, 0)).save(tmp_path / "red" / "0.png")
    with pytest.raises(ValueError, match="have one name and other contents: with --task multi-label a name"):
        open_data(str(tmp_path), task="multi-label")


def test_lists_hold_tags_or_numbers(tmp_path):
    for i in range(4):
        colour(TAGS[i]).save(tmp_path / f"{i}.png")
    (tmp_path / "classes.txt").write_text("blue\nred\n")
    (tmp_path / "train.txt").write_text("0.png 0\n1.png 1,0\n2.png -\n3.png 1\n")
    assert tags_of(open_data(str(tmp_path), task="multi-label")) == TAGS
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {number}\n" for i, number in enumerate(NUMBERS)))
    assert open_data(str(tmp_path), task="regression").split("train").labels == tuple(NUMBERS)
    with pytest.raises(ValueError, match=r"line 1: expected `path 0,3`, as of --task multi-label, got '0.png 0.5'"):
        open_data(str(tmp_path), task="multi-label")


def test_fractions_are_numbers_and_whole_numbers_are_classes_unless_asked_for(tmp_path):
    fractions = open_data(write(tmp_path / "a", lambda i: (NUMBERS[i],), ("label",)))
    assert (fractions.task, fractions.classes, fractions.split("train").labels) == ("regression", (), tuple(NUMBERS))
    assert "holds numbers with fractions, so it is no class: --task regression" in fractions.left_out[0]
    whole = write(tmp_path / "b", lambda i: (i - 1,), ("label",))
    assert open_data(write(tmp_path / "c", lambda i: (i,), ("label",))).task == "classification"
    assert open_data(whole, task="regression").split("val").labels == (-1.0, 0.0, 1.0, 2.0)


@pytest.mark.parametrize(("spec", "task"), [("digits", "multi-label"), ("sprites:count", "regression")])
def test_sets_of_classes_have_no_tags_and_no_numbers(spec, task):
    with pytest.raises(ValueError, match=f"--task {task}: {spec} has one class per image"):
        open_data(spec, task=task)


def test_the_loss_of_tags_is_torchs_summed_over_examples_without_what_stands_in():
    draw = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(5, 3, generator=draw), torch.randint(2, (5, 3), generator=draw).float()
    expected = F.binary_cross_entropy_with_logits(logits, targets) * 5
    loss = multi_label(score=lambda *_: {}, names=()).loss
    torch.testing.assert_close(loss(logits, targets), expected)
    padded = torch.cat([targets, torch.full((1, 3), torch.nan)])
    torch.testing.assert_close(loss(torch.cat([logits, logits[:1]]), padded), expected)


def test_scores_of_tags_are_those_of_scikit_learn():
    draw = torch.Generator().manual_seed(1)
    logits, targets = torch.randn(40, 4, generator=draw), torch.randint(2, (40, 4), generator=draw).float()
    found, predicted = tag_scores(logits, targets), logits.sigmoid() > 0.5
    assert found["mAP"] == pytest.approx(100 * average_precision_score(targets, logits))
    for average in ("macro", "micro"):
        assert found[f"{average}_f1"] == pytest.approx(100 * f1_score(targets, predicted, average=average))
    assert found["exact_match"] == pytest.approx(100 * (predicted == targets.bool()).all(1).float().mean().item())


def test_numbers_are_standardised_and_come_back():
    scale = Scale.of(NUMBERS)
    assert (scale.mean, scale.std) == (pytest.approx(np.mean(NUMBERS)), pytest.approx(np.std(NUMBERS)))
    with pytest.raises(ValueError, match="all numbers of the training split are 2: there is nothing to learn"):
        Scale.of([2.0, 2.0])


def test_a_run_on_tags_predicts_those_above_the_threshold(configure, tmp_path):
    spec = write(tmp_path / "d", lambda i: (";".join(TAGS[i]),), ("tags",), count=16)
    found = train(configure(data=spec, task="multi-label", epochs=8, select="macro_f1"))
    assert found["test_mAP"] > 90
    assert (found["data"]["classes"], found["test_exact_match"] > 50) == (2, True)
    names = [f"{spec}/test/{i}.png" for i in range(4)]
    every = predict_images(tmp_path / "a run", names, tag_threshold=0.0)
    assert all({*prediction.classes} == {"blue", "red"} for prediction in every)
    predictions = predict_images(tmp_path / "a run", names)
    for prediction, all_tags in zip(predictions, every, strict=True):
        kept = [name for name, p in zip(all_tags.classes, all_tags.probabilities, strict=True) if p >= 0.5]
        assert list(prediction.classes) == kept
    rows = list(csv.DictReader(write_predictions(predictions, tmp_path / "p.csv").read_text().splitlines()))
    assert {row["image"] for row in rows} == {*names}


def test_a_run_on_numbers_predicts_in_their_unit(configure, tmp_path):
    spec = write(tmp_path / "d", lambda i: (1000 + NUMBERS[i],), ("label",), count=16)
    found = train(configure(data=spec, epochs=12))
    assert found["test_r2"] > 0.5
    names = [f"{spec}/test/{i}.png" for i in range(16)]
    given = np.array([prediction.number for prediction in predict_images(tmp_path / "a run", names)])
    errors = np.abs(given - 1000 - np.array(NUMBERS * 4))
    assert errors.mean() == pytest.approx(found["test_mae"], rel=1e-3)
    assert np.sqrt((errors**2).mean()) == pytest.approx(found["test_rmse"], rel=1e-3)


@pytest.mark.parametrize("options", [{"mixup": 0.2}, {"smoothing": 0.1}, {"shots": 2}, {"class_weights": "balanced"}])
def test_what_is_for_one_class_per_image_is_refused(configure, tmp_path, options):
    for i, number in enumerate(NUMBERS):
        colour((), number).save(tmp_path / f"{i}.png")
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {number}\n" for i, number in enumerate(NUMBERS)))
    with pytest.raises(ValueError, match=r"is for one class per image, and .* is for regression: leave it out"):
        train(configure(data=str(tmp_path), task="regression", val_split=None, test_split=None, **options))
