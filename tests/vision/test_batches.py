"""Batches for evaluation: every image once in one of the processes, in timm's evaluation transform."""

from __future__ import annotations

import gc
import random
import zipfile

import numpy as np
import pytest
import timm
import torch
from drawn import Drawn, split_of
from PIL import Image
from timm.data import create_transform, resolve_data_config

from capaboost_vit.vision.build import build_data_config, build_transform
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import Split, open_data
from capaboost_vit.vision.loader import Normalise, image_eval_loader

MODEL = timm.create_model("test_vit")


@pytest.fixture
def _no_loader_outlives_its_test():
    yield
    gc.collect()  # the traceback of a failed epoch holds its workers; a later fork would inherit their pipes


def batches_of(split, *, batch_size=8, **options):
    data = build_data_config(TrainConfig(img_size=24), MODEL)
    return image_eval_loader(split, build_transform(data), batch_size=batch_size, **options)


def everything(batches):
    parts = list(batches)
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def test_evaluation_sees_each_image_once_in_the_order_of_the_split():
    batches = batches_of(split_of(21))
    for _ in range(2):
        assert [len(labels) for _, labels in batches] == [8, 8, 5]
        assert everything(batches)[1].tolist() == list(range(21))


@pytest.mark.parametrize(("count", "world_size"), [(1, 2), (7, 3), (8, 5), (3, 1)])
def test_every_image_comes_once_in_one_of_the_processes(count, world_size):
    found, batches = [], set()
    for rank in range(world_size):
        images, labels = everything(batches_of(split_of(count), batch_size=2, rank=rank, world_size=world_size))
        assert len(images) == len(labels)
        batches.add(len(batches_of(split_of(count), batch_size=2, rank=rank, world_size=world_size)))
        assert labels[labels < 0].tolist() in ([], [-1])  # the example that stands in
        found += labels[labels >= 0].tolist()
    assert sorted(found) == list(range(count))
    assert len(batches) == 1  # as many in each: they wait for each other


def test_batches_are_uint8_images_and_their_labels():
    images, labels = next(iter(batches_of(split_of(9))))
    assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 24, 24))
    assert (labels.dtype, labels.shape) == (torch.int64, (8,))


def test_batches_are_the_same_with_0_and_2_workers():
    alone, shared = (batches_of(split_of(18), workers=workers) for workers in (0, 2))
    for _ in range(2):  # the workers live on
        for (x, y), (u, v) in zip(alone, shared, strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)
    shared.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_loading_neither_reads_nor_moves_the_global_random_states(workers):
    def load(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        batches = batches_of(split_of(10), workers=workers)
        images, _ = everything(batches)
        batches.close()
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
        return images

    assert torch.equal(load(5), load(6))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"img_size": 33},
        {"crop_pct": 1.0, "crop_mode": "squash"},
        {"crop_pct": 0.6, "crop_mode": "center"},
        {"crop_mode": "border", "interpolation": "bilinear"},
    ],
)
def test_without_augmentation_the_input_is_that_of_timms_evaluation(options):
    options = {"img_size": 24, **options}
    data = build_data_config(TrainConfig(**options), MODEL)
    oracle = create_transform(**resolve_data_config(options, model=MODEL))  # plain tensors, normalised
    split = split_of(5)
    batches = image_eval_loader(split, build_transform(data), batch_size=5)
    images, labels = Normalise(data, torch.device("cpu"))(next(iter(batches)))
    for image, label in zip(images, labels.tolist(), strict=True):
        assert (image - oracle(split.image(label))).abs().max() <= 1e-6


@pytest.mark.parametrize("options", [{"scale": (0.5, 0.6)}, {"color_jitter": 0.0, "hflip": 1.0}, {"aa": "rand-m5"}])
def test_with_augmentation_the_images_are_those_of_timms_training_transform(options):
    config = TrainConfig(img_size=24, no_aug=False, **options)
    data = build_data_config(config, MODEL)
    defaults = {"scale": (0.08, 1.0), "hflip": 0.5, "color_jitter": 0.4, "auto_augment": None}
    model = {name: data[name] for name in ("interpolation", "mean", "std")}
    asked = {"auto_augment" if name == "aa" else name: value for name, value in options.items()}
    oracle = create_transform(24, is_training=True, use_prefetcher=True, **{**model, **defaults, **asked})
    image = split_of(1).image(0)
    for seed in range(4):
        pixels = []
        for transform in (build_transform(data, config), oracle):
            random.seed(seed)
            np.random.seed(seed)  # noqa: NPY002
            torch.manual_seed(seed)
            pixels.append(transform(image))
        assert np.array_equal(*pixels)


def test_the_input_configuration_is_the_models_unless_the_run_says_otherwise():
    model = timm.create_model("vit_tiny_patch16_224")
    assert build_data_config(TrainConfig(), model) == resolve_data_config({}, model=model)
    config = TrainConfig(img_size=64, crop_pct=1.0, crop_mode="squash", interpolation="nearest")
    asked = build_data_config(config, model)
    assert asked["input_size"] == (3, 64, 64)
    assert (asked["crop_pct"], asked["crop_mode"], asked["interpolation"]) == (1.0, "squash", "nearest")


@pytest.mark.parametrize(("keep", "times"), [(True, 1), (False, 2)])
def test_an_image_is_decoded_once_if_it_is_kept(keep, times):
    opener = Drawn()
    batches = batches_of(split_of(10, opener), keep=keep)
    assert torch.equal(everything(batches)[0], everything(batches)[0])
    assert sorted(opener.opened, key=int) == sorted([str(i) for i in range(10)] * times, key=int)


def test_only_as_many_images_are_kept_as_fit(monkeypatch):
    monkeypatch.setattr("capaboost_vit.training.cache_size.MEMORY", 7 * 24 * 24 * 3 + 1)
    opener = Drawn()
    batches = batches_of(split_of(10, opener))
    assert torch.equal(everything(batches)[0], everything(batches)[0])
    assert len(opener.opened) == 10 + 3


@pytest.mark.usefixtures("_no_loader_outlives_its_test")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_evaluation_and_is_named(tmp_path, workers):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    split = Split(tuple(str(tmp_path / name) for name in ("good.png", "bad.png")), (0, 0), Image.open)
    batches = batches_of(split, workers=workers)
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        list(batches)
    batches.close()


def test_batches_of_the_zip_are_the_same_with_workers(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for i in range(12):
            Image.fromarray(np.full((4, 4, 3), i, dtype=np.uint8)).save(tmp_path / "one.png")
            file.write(tmp_path / "one.png", f"{i}.png")
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {i}\n" for i in range(12)))
    split = open_data(str(tmp_path)).split("train")
    split.image(0)  # an open handle here must not be shared with the workers
    batches = batches_of(split, workers=2, batch_size=2)
    images, labels = everything(batches)
    batches.close()
    assert images[:, 0, 0, 0].tolist() == labels.tolist()
