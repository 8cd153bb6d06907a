"""Generated images: the sizes that were asked for, and the same pixels wherever they are drawn."""

from __future__ import annotations

import hashlib
import pickle

import pytest

from capaboost_vit.vision.data import open_data


def test_splits_classes_and_pixels_are_those_of_the_spec():
    data = open_data("synthetic:3:7:2:4:16")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 7, "val": 2, "test": 4}
    assert data.classes == ("class 0", "class 1", "class 2")
    assert data.split("train").labels == (0, 1, 2, 0, 1, 2, 0)
    assert data.split("train").image(0).size == (16, 16)
    assert len(data.split("train+val")) == 9
    assert "val" not in open_data("synthetic:3:7:0:4:16").splits


def test_an_image_is_a_function_of_its_name_alone_and_survives_pickling():
    split = open_data("synthetic:3:7:2:4:16").split("test")
    again = pickle.loads(pickle.dumps(split))
    contents = [split.content(i) for i in range(4)]
    assert contents == [again.content(i) for i in range(4)]
    assert len(set(contents)) == 4
    # golden: hashlib.sha256(open_data("synthetic:3:7:2:4:16").split("test").image(3).tobytes()).hexdigest()
    assert hashlib.sha256(split.image(3).tobytes()).hexdigest()[:16] == "bc8b2751d4b9d0ff"


def test_classes_can_be_told_apart():
    split = open_data("synthetic:2:4:0:4:64").split("train")
    means = [split.image(i).resize((1, 1), 4).getpixel((0, 0)) for i in range(4)]
    same, other = (sum(abs(a - b) for a, b in zip(means[0], means[i], strict=True)) for i in (2, 1))
    assert same < 6 < 30 < other


@pytest.mark.parametrize("spec", ["synthetic", "synthetic:3:7:2:4", "synthetic:3:7:2:4:0", "synthetic:0:7:2:4:8"])
def test_a_malformed_spec_is_refused_in_one_line(spec):
    with pytest.raises(
        ValueError, match=r"write synthetic:CLASSES:TRAIN|all of its numbers but VAL must be at least 1"
    ):
        open_data(spec)
