"""Batches are a function of (seed, epoch, index): not of earlier draws, of workers, or of the global random state."""

from __future__ import annotations

import gc
import random

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

from capaboost_vit.build import build_data_config, build_transform
from capaboost_vit.training.config import TrainConfig
from capaboost_vit.vision.batches import ImageBatches, Normalise
from capaboost_vit.vision.data import Split, open_data

CPU = torch.device("cpu")
MODEL = timm.create_model("test_vit")
AUGMENT = TrainConfig(no_aug=False, aa="rand-m9-mstd0.5", scale=(0.3, 1.0))
AUGMENTED = {"augmented": True}


@pytest.fixture
def _no_loader_outlives_its_test():
    yield
    gc.collect()  # the traceback of a failed epoch holds its workers; a later fork would inherit their pipes


class Drawn:
    """Opens `i`: a 40 x 30 picture of noise; counts how often it was asked."""

    def __init__(self):
        self.opened = []

    def __call__(self, name):
        self.opened.append(name)
        pixels = np.random.default_rng(int(name)).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        return Image.fromarray(pixels)


def split_of(count, opener=None):
    return Split(tuple(map(str, range(count))), tuple(range(count)), opener or Drawn())


def batches_of(split, *, seed=0, batch_size=8, augmented=False, **options):
    data = build_data_config(TrainConfig(img_size=24), MODEL)
    transform = build_transform(data, AUGMENT if augmented else None)
    return ImageBatches(split, transform, batch_size=batch_size, seed=seed, augmented=augmented, **options)


def everything(batches, epoch=0):
    parts = list(batches.epoch(epoch))
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def order(batches, epoch):
    return everything(batches, epoch)[1].tolist()


def test_every_epoch_has_every_image_once_in_another_order():
    batches = batches_of(split_of(30))
    orders = [order(batches, epoch) for epoch in range(3)]
    assert all(sorted(labels) == list(range(30)) for labels in orders)
    assert len({tuple(labels) for labels in orders}) == 3
    assert list(range(30)) not in orders


def test_the_order_depends_on_seed_and_epoch_only():
    first = batches_of(split_of(30), seed=3)
    straight = order(first, 2)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    other = batches_of(split_of(30), seed=3)
    for epoch in (5, 0):  # what was drawn before does not matter
        order(other, epoch)
    assert order(other, 2) == straight
    assert order(batches_of(split_of(30), seed=3, batch_size=7, **AUGMENTED), 2) == straight
    assert order(batches_of(split_of(30), seed=4), 2) != straight


def test_evaluation_sees_each_image_once_in_the_order_of_the_split():
    batches = batches_of(split_of(21), seed=None)
    assert [len(labels) for _, labels in batches] == [8, 8, 5]
    for epoch in (0, 3):
        assert order(batches, epoch) == list(range(21))


@pytest.mark.parametrize(("count", "sizes"), [(16, [8, 8]), (17, [8, 8, 1]), (3, [3]), (1, [1])])
@pytest.mark.parametrize("seed", [0, None])
def test_the_last_smaller_batch_is_kept(count, sizes, seed):
    batches = batches_of(split_of(count), seed=seed)
    assert len(batches) == len(sizes)
    assert [len(labels) for _, labels in batches.epoch(0)] == sizes


def test_batches_are_uint8_images_and_their_labels():
    images, labels = next(batches_of(split_of(9)).epoch(0))
    assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 24, 24))
    assert (labels.dtype, labels.shape) == (torch.int64, (8,))


@pytest.mark.parametrize("options", [{}, AUGMENTED], ids=["plain", "augmented"])
def test_batches_are_the_same_with_0_and_2_workers(options):
    alone, shared = (batches_of(split_of(18), workers=workers, **options) for workers in (0, 2))
    for epoch in (0, 1, 0):  # the workers live on between the epochs
        for (x, y), (u, v) in zip(alone.epoch(epoch), shared.epoch(epoch), strict=True):
            assert torch.equal(x, u)
            assert torch.equal(y, v)


def test_the_augmentation_of_an_image_depends_on_seed_epoch_and_index_only():
    split = split_of(12)
    images, labels = everything(batches_of(split, **AUGMENTED))
    again, others = everything(batches_of(split, batch_size=5, **AUGMENTED))
    assert torch.equal(images[labels.argsort()], again[others.argsort()])
    for seed, epoch in ((1, 0), (0, 1)):
        changed, others = everything(batches_of(split, seed=seed, **AUGMENTED), epoch)
        assert not torch.equal(images[labels.argsort()], changed[others.argsort()])
    same = Split(("5",) * 4, (0, 1, 2, 3), Drawn())  # one picture, four indices: four augmentations
    assert len({image.numpy().tobytes() for image in everything(batches_of(same, **AUGMENTED))[0]}) == 4


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"seed": None}, AUGMENTED], ids=["shuffled", "in order", "augmented"])
def test_loading_neither_reads_nor_moves_the_global_random_states(options, workers):
    def draw():
        return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002

    def load(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        expected = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
        images, _ = everything(batches_of(split_of(10), workers=workers, **options))
        found = draw()
        random.setstate(expected[0])
        np.random.set_state(expected[1])  # noqa: NPY002
        torch.set_rng_state(expected[2])
        assert draw() == found
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
    batches = ImageBatches(split, build_transform(data), batch_size=5)
    images, labels = Normalise(data, CPU)(next(iter(batches)))
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


@pytest.mark.parametrize("seed", [0, None])
def test_without_augmentation_an_image_is_decoded_once_and_stays_the_same(seed):
    opener = Drawn()
    batches = batches_of(split_of(10, opener), seed=seed)
    first, labels = everything(batches)
    again, others = everything(batches, 1)
    assert sorted(opener.opened, key=int) == [str(i) for i in range(10)]
    assert torch.equal(first[labels.argsort()], again[others.argsort()])


@pytest.mark.parametrize("options", [AUGMENTED, {"keep": False}], ids=["augmented", "not kept"])
def test_images_that_are_not_to_be_kept_are_decoded_each_time(options):
    opener = Drawn()
    batches = batches_of(split_of(4, opener), **options)
    everything(batches, 0)
    everything(batches, 1)
    assert len(opener.opened) == 8


def test_only_as_many_images_are_kept_as_fit(monkeypatch):
    monkeypatch.setattr("capaboost_vit.vision.batches._KEPT_BYTES", 7 * 24 * 24 * 3 + 1)
    opener = Drawn()
    batches = batches_of(split_of(10, opener), seed=None)
    assert torch.equal(everything(batches)[0], everything(batches)[0])
    assert len(opener.opened) == 10 + 3


def test_a_random_transform_needs_a_seed():
    with pytest.raises(ValueError, match="needs a seed"):
        batches_of(split_of(4), seed=None, augmented=True)


@pytest.mark.usefixtures("_no_loader_outlives_its_test")
@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_evaluation_and_is_named(tmp_path, workers):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    split = Split(tuple(str(tmp_path / name) for name in ("good.png", "bad.png")), (0, 0), Image.open)
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        list(batches_of(split, seed=None, workers=workers))


def test_batches_of_the_zip_are_the_same_with_workers(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        for i in range(12):
            Image.fromarray(np.full((4, 4, 3), i, dtype=np.uint8)).save(tmp_path / "one.png")
            file.write(tmp_path / "one.png", f"{i}.png")
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {i}\n" for i in range(12)))
    split = open_data(str(tmp_path)).split("train")
    split.image(0)  # an open handle here must not be shared with the workers
    images, labels = everything(batches_of(split, workers=2, batch_size=2))
    assert images[:, 0, 0, 0].tolist() == labels.tolist()
