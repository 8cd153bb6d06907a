"""predictions.json of real runs: counts that add up, mistakes with their images; what cannot be had is said."""

from __future__ import annotations

import base64
import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from capaboost_vit.study.outcomes import read_outcomes
from capaboost_vit.study.page.predictions import Thumbnails, confusion_png, read_predictions, thumbnail
from capaboost_vit.vision.data import open_data


@pytest.fixture
def outcome(real_study):
    return next(o for o in read_outcomes(real_study).finals if o.row == "lora" and o.trial.task == "5-9")


def picture_of(uri, kind):
    start, _, content = uri.partition(",")
    assert start == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_run_leaves_counts_that_add_up_to_its_accuracy(outcome):
    found = read_predictions(outcome, None, most=24)
    counts = np.array(found.counts)
    assert found.classes == tuple("56789")
    assert (counts.trace(), counts.sum()) == (outcome.result["test_right"], outcome.result["test_total"])
    labels = open_data("digits:5-9").split("test").labels
    assert counts.sum(1).tolist() == [labels.count(i) for i in range(5)]


def test_the_worst_mistakes_are_images_of_the_test_split_with_their_labels(outcome):
    stored = json.loads((outcome.folder / "predictions.json").read_text())
    split = open_data("digits:5-9").split("test")
    thumbnails = Thumbnails()
    found = read_predictions(outcome, thumbnails, most=24)
    assert len(found.worst) == min(24, outcome.result["test_total"] - outcome.result["test_right"])
    losses = [-np.log(m["label_probability"]) for m in found.worst]
    assert losses == sorted(losses, reverse=True)
    for row, mistake in zip(stored["worst"], found.worst, strict=True):
        assert split.labels[row["place"]] == row["label"] != row["answer"]
        assert mistake["name"] == split.names[row["place"]]
        assert mistake["answer_probability"] >= mistake["label_probability"]
        assert picture_of(mistake["picture"], "png").size == split.image(row["place"]).size
    assert thumbnails.problems == {}


def test_fewer_mistakes_are_the_worst_of_them(outcome):
    whole = read_predictions(outcome, None, most=24)
    assert read_predictions(outcome, None, most=3).worst == whole.worst[:3]
    assert all(mistake["picture"] is None for mistake in whole.worst)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": "/nowhere/cifar"}, "/nowhere/cifar is not on this machine"),
        ({"data": "owner/name"}, "owner/name is not on this machine"),
        ({"data": "digits:0-1"}, "out of range"),
        ({"test_split": "exam"}, "no split 'exam'"),
    ],
    ids=str,
)
def test_images_that_cannot_be_had_leave_the_names_and_are_said(outcome, options, said):
    trial = dataclasses.replace(outcome.trial, config={**outcome.trial.config, **options})
    thumbnails = Thumbnails()
    found = read_predictions(dataclasses.replace(outcome, trial=trial), thumbnails, most=24)
    assert any(mistake["picture"] is None for mistake in found.worst)
    assert said in thumbnails.problems["5-9"]


def test_data_that_have_changed_are_not_shown(outcome):
    thumbnails = Thumbnails()
    assert thumbnails.find(outcome, 3, "digit 1") == ("digit 1", None)
    assert "has changed: image 3 is" in thumbnails.problems["5-9"]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[" * 10**5,
        '{"classes": ["a"], "counts": [[-1, 0, 1]], "worst": []}',
        "[]",
        '{"classes": ["a"], "counts": [[3, 0, 1]], "worst": []}',
        "{}",
    ],
    ids=lambda text: text[:50],
)
def test_a_file_that_is_damaged_or_missing_is_left_out(outcome, tmp_path, text):
    moved = dataclasses.replace(outcome, folder=tmp_path)
    assert read_predictions(moved, None, most=24) is None
    (tmp_path / "predictions.json").write_text(text)
    assert read_predictions(moved, None, most=24) is None


def test_many_classes_are_a_picture_whose_pixels_are_shares(outcome, tmp_path):
    counts = [[i, (7 * i) % 30, 4] for i in range(30)] + [[0, 5, 12]]
    content = {"classes": [f"c{i}" for i in range(30)], "counts": counts, "worst": []}
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    found = read_predictions(dataclasses.replace(outcome, folder=tmp_path), None, most=24)
    assert found.counts is None
    assert found.confusions[0] == ("c0", "c5", 12, 16)
    assert found.recalls[0] == (4, 16)
    assert found.lowest[0] == ("c1", 0, 4)
    pixels = np.asarray(picture_of(found.picture, "png").convert("RGBA"))[..., 3]
    assert pixels.shape == (30, 30)
    assert (pixels[1, 7], pixels[1, 8]) == (255, 0)
    assert pixels[0, 0] == pytest.approx(255 * (4 / 16) ** 0.5, abs=10)


def test_of_thousands_of_classes_nothing_square_is_made(outcome, tmp_path):
    classes = [f"c{i}" for i in range(200_000)]  # their matrix would take 320 GB
    content = {"classes": classes, "counts": [[7, 199_999, 3], [7, 7, 1]], "worst": []}
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    found = read_predictions(dataclasses.replace(outcome, folder=tmp_path), None, most=24)
    assert (found.counts, found.picture, found.confusions) == (None, None, (("c7", "c199999", 3, 4),))


def test_recalls_are_those_of_the_classes_and_the_interval_is_wilsons(outcome, tmp_path):
    content = {"classes": ["a", "b", "c"], "counts": [[0, 0, 3], [0, 1, 1], [1, 1, 4]], "worst": []}
    (tmp_path / "predictions.json").write_text(json.dumps(content))
    found = read_predictions(dataclasses.replace(outcome, folder=tmp_path), None, most=24)
    assert found.recalls == ((3, 4), (4, 4), (0, 0))
    assert found.lowest == [("a", 3, 4)]
    p, n, z = 7 / 8, 8, 1.959964
    middle, half = (p + z * z / 2 / n), z * (p * (1 - p) / n + z * z / 4 / n / n) ** 0.5
    assert found.interval == pytest.approx(
        [100 * (middle - half) / (1 + z * z / n), 100 * (middle + half) / (1 + z * z / n)]
    )


@pytest.mark.parametrize("text", ["{", '{"shown": "x"}', '{"shown": "x", "pictures": {"1": "no base64!"}}', "[]"])
def test_explanations_are_shown_where_they_are_whole(outcome, tmp_path, text):
    moved = dataclasses.replace(outcome, folder=tmp_path)
    (tmp_path / "predictions.json").write_bytes((outcome.folder / "predictions.json").read_bytes())
    place = json.loads((tmp_path / "predictions.json").read_text())["worst"][0]["place"]
    (tmp_path / "explanations.json").write_text(json.dumps({"shown": "a map", "pictures": {str(place): "AAAA"}}))
    found = read_predictions(moved, Thumbnails(), most=24)
    assert found.explained == "a map"
    assert [mistake["explanation"] for mistake in found.worst[:2]] == ["data:image/jpeg;base64,AAAA", None]
    (tmp_path / "explanations.json").write_text(text)
    found = read_predictions(moved, Thumbnails(), most=24)
    assert (found.explained, found.worst[0]["explanation"]) == ("", None)


@pytest.mark.parametrize("size", [(500, 100), (10, 20), (96, 96)], ids=str)
def test_thumbnails_are_small_and_keep_their_shape(size):
    kind = "png" if max(size) <= 24 else "jpeg"  # few pixels are kept as they are
    small = picture_of(thumbnail(Image.new("RGB", size, "red")), kind)
    assert max(small.size) == min(96, max(size))
    assert small.width / small.height == pytest.approx(size[0] / size[1], rel=0.1)


def test_a_matrix_without_a_single_answer_has_a_picture():
    assert picture_of(confusion_png(np.zeros((40, 40), dtype=int)), "png").size == (40, 40)
