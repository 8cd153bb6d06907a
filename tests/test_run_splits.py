"""Whole runs on parts of a data set: expressions, few shots, and no test at all."""

from __future__ import annotations

import json
import shutil

import pytest

from capaboost_vit.run import train
from capaboost_vit.training.job import as_dict, run_identity
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import Split, open_data

pytestmark = pytest.mark.usefixtures("without_pictures")


def sha256(found, split):
    return found["data"]["splits"][split]["sha256"]


def test_a_run_on_expressions_has_the_images_that_they_mean(configure, pictures, capsys):
    config = configure(
        epochs=1, train_split="mixed(train)[:50%]+test[:2]", val_split="mixed(train)[50%:]", test_split="test[2:]"
    )
    found = train(config)
    data = open_data(str(pictures))
    expected = {name: data.split(name) for name in (config.train_split, config.val_split, config.test_split)}
    assert {name: len(split) for name, split in expected.items()} == dict(zip(expected, (26, 24, 4), strict=True))
    assert found["data"]["splits"] == {name: split.record() for name, split in expected.items()}
    assert found["test_total"] == 4
    assert "mixed(train)[:50%]+test[:2] 26, mixed(train)[50%:] 24, test[2:] 4" in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train_split", "val_split", "test_split"])
def test_an_expression_that_means_nothing_is_refused_before_anything_is_written(configure, tmp_path, split):
    with pytest.raises(ValueError, match=r"train\[:99\] goes beyond the last image: 99 of 48 images"):
        train(configure(**{split: "train[:99]"}))
    assert not (tmp_path / "a run").exists()


# no test


@pytest.mark.parametrize("val_split", ["val", None])
def test_without_a_test_a_run_ends_and_never_opens_a_test_image(configure, tmp_path, monkeypatch, capsys, val_split):
    opened = []
    image = Split.image
    monkeypatch.setattr(Split, "image", lambda self, i: opened.append(self.names[i]) or image(self, i))
    config = configure(test_split=None, val_split=val_split, epochs=1)
    found = train(config)
    assert found["test_accuracy"] is None
    assert "test_total" not in found
    assert found["data"]["splits"].keys() == {"train"} | {val_split} - {None}
    assert not set(opened) & set(open_data(config.data).split("test").names)
    assert "no test split: no test accuracy" in capsys.readouterr().err
    assert json.loads((tmp_path / "a run" / "status.json").read_text())["status"] == "finished"
    again = train(configure(test_split=None, val_split=val_split, epochs=1, resume=True))
    assert again == json.loads(json.dumps(found))


def test_what_is_trained_does_not_depend_on_whether_there_is_a_test(configure, tmp_path):
    for name, split in (("a", "test"), ("b", None)):
        train(configure(output=str(tmp_path / name), test_split=split, epochs=1))
    for name in ("adapter.safetensors", "summary.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# few shots


def test_shots_are_the_same_images_for_every_method_and_others_for_another_seed(configure, tmp_path):
    def run(name, **options):
        return train(configure(output=str(tmp_path / name), shots=2, epochs=1, **options))

    lora, rank = run("lora"), run("rank", method={"rank": 2}, lr=1e-3)
    adapter, other = run("adapter", model="vit_tiny_capaboost_adapter"), run("other", seed=1)
    assert lora["data"]["splits"]["train"]["images"] == 6
    assert sha256(lora, "train") == sha256(rank, "train") == sha256(adapter, "train") != sha256(other, "train")
    for split in ("val", "test"):
        assert sha256(lora, split) == sha256(other, split)  # which are whole
        assert lora["data"]["splits"][split]["images"] == 6


def test_shots_are_drawn_from_the_images_that_can_be_read(configure, pictures, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(pictures, folder)
    names = open_data(str(folder)).split("train").names
    blue = [name for name in names if name.startswith("blue")]
    for name in blue[2:]:
        (folder / name).write_bytes(b"")
    found = train(configure(data=str(folder), shots=2, epochs=1, bad_images="skip"))
    assert found["data"]["splits"]["train"]["images"] == 6
    with pytest.raises(ValueError, match=r"--shots 3: class 'blue' has 2 training images$"):
        train(configure(data=str(folder), shots=3, bad_images="skip", output=str(tmp_path / "b")))


def test_too_many_shots_are_refused(configure, tmp_path):
    with pytest.raises(ValueError, match="--shots 17: class 'blue' has 16 training images, and 2 more have too few"):
        train(configure(shots=17))
    assert not (tmp_path / "a run").exists()
    for shots in (0, -1):
        with pytest.raises(ValueError, match=f"--shots must be at least 1, got {shots}"):
            TrainConfig(shots=shots)


# resuming


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"shots": 3}, "shots: 2 -> 3"),
        ({"shots": None}, "shots: 2 -> null"),
        ({"test_split": "test"}, 'test_split: null -> "test"'),
        ({"train_split": "train[:40]"}, r'train_split: "train" -> "train\[:40\]"'),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_run_does_not_go_on_with_other_images(configure, tmp_path, change, text, finished):
    options = {"shots": 2, "test_split": None, "epochs": 1}
    train(configure(**options))
    if not finished:
        (tmp_path / "a run" / "result.json").unlink()
    with pytest.raises(ValueError, match=f"was started otherwise .*{text}"):
        train(configure(**{**options, **change}, resume=True))
    train(configure(**options, resume=True))


def test_a_run_of_a_release_without_shots_goes_on():
    now = as_dict(TrainConfig())
    before = {name: value for name, value in now.items() if name != "shots"}
    assert run_identity(before, TrainConfig) == run_identity(now, TrainConfig)
    assert run_identity(before, TrainConfig) != run_identity(as_dict(TrainConfig(shots=1)), TrainConfig)
