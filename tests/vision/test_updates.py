"""Updates are a function of (seed, epoch, index): not of earlier draws, of workers, or of where an epoch is begun."""

from __future__ import annotations

import gc
import multiprocessing
import random
import time

import numpy as np
import pytest
import timm
import torch
from drawn import Drawn, split_of, train_loader
from PIL import Image

from capaboost_vit.vision.build import build_data_config, build_transform
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.data import Split

MODEL = timm.create_model("test_vit")
AUGMENT = TrainConfig(no_aug=False, aa="rand-m9-mstd0.5", scale=(0.3, 1.0))
plain_and_augmented = pytest.mark.parametrize("augmented", [False, True], ids=["plain", "augmented"])


@pytest.fixture
def updates_of():
    made = []

    def make(split, *, seed=0, batch_size=8, augmented=False, **options):
        data = build_data_config(TrainConfig(img_size=24), MODEL)
        transform = build_transform(data, AUGMENT if augmented else None)
        made.append(train_loader(split, transform, batch_size=batch_size, seed=seed, augmented=augmented, **options))
        return made[-1]

    yield make
    for updates in made:
        updates.close()


def everything(updates, epoch=0, start=0):
    parts = [batch for update in updates.epoch(epoch, start) for batch in update.batches]
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


def order(updates, epoch):
    return everything(updates, epoch)[1].tolist()


def by_label(found):
    images, labels = found
    return images[labels.argsort()]


# the order


def test_an_update_holds_uint8_images_their_labels_and_places(updates_of):
    (update,) = updates_of(split_of(8)).epoch(0)
    ((images, labels),) = update.batches
    assert (images.dtype, images.shape) == (torch.uint8, (8, 3, 24, 24))
    assert (labels.dtype, labels.shape) == (torch.int64, (8,))
    assert update.indices == labels.tolist()


@pytest.mark.parametrize("workers", [0, 2])
@plain_and_augmented
def test_an_epoch_that_is_begun_later_is_the_rest_of_it(updates_of, workers, augmented):
    options = {"workers": workers, "augmented": augmented, "accumulation": 2, "batch_size": 4}
    whole = list(updates_of(split_of(18), **options).epoch(3))
    updates = updates_of(split_of(18), **options)
    for start in (4, 0, 2, 5):
        rest = list(updates.epoch(3, start))
        assert [update.indices for update in rest] == [update.indices for update in whole[start:]]
        for found, expected in zip(rest, whole[start:], strict=True):
            for (x, y), (u, v) in zip(found.batches, expected.batches, strict=True):
                assert torch.equal(x, u)
                assert torch.equal(y, v)


def test_an_epoch_that_is_left_in_the_middle_does_not_reach_into_the_next(updates_of):
    updates, fresh = (updates_of(split_of(30), workers=2, batch_size=4) for _ in range(2))
    next(updates.epoch(0))
    assert torch.equal(everything(updates, 1)[0], everything(fresh, 1)[0])


# the images


@plain_and_augmented
def test_updates_are_the_same_with_0_and_2_workers(updates_of, augmented):
    alone, shared = (updates_of(split_of(18), workers=workers, augmented=augmented) for workers in (0, 2))
    for epoch in (0, 1, 0):  # the workers live on between the epochs
        assert torch.equal(everything(alone, epoch)[0], everything(shared, epoch)[0])
        assert order(alone, epoch) == order(shared, epoch)


def test_the_augmentation_of_an_image_depends_on_seed_epoch_and_index_only(updates_of):
    split = split_of(12)
    images = by_label(everything(updates_of(split, augmented=True)))
    assert torch.equal(images, by_label(everything(updates_of(split, augmented=True, batch_size=5))))
    for seed, epoch in ((1, 0), (0, 1)):
        assert not torch.equal(images, by_label(everything(updates_of(split, seed=seed, augmented=True), epoch)))
    same = Split(("5",) * 4, (0, 1, 2, 3), Drawn())  # one picture, four indices: four augmentations
    assert len({image.numpy().tobytes() for image in everything(updates_of(same, augmented=True))[0]}) == 4


@pytest.mark.parametrize("workers", [0, 2])
@plain_and_augmented
def test_loading_neither_reads_nor_moves_the_global_random_states(updates_of, augmented, workers):
    def load(seed):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        images, _ = everything(updates_of(split_of(10), workers=workers, augmented=augmented))
        after = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
        assert before == after
        return images

    assert torch.equal(load(5), load(6))


# what is kept


@plain_and_augmented
def test_an_image_is_decoded_once_with_augmentation_too(updates_of, monkeypatch, augmented):
    opened, image = [], Split.image
    monkeypatch.setattr(Split, "image", lambda self, index: opened.append(index) or image(self, index))
    updates = updates_of(split_of(10), augmented=augmented)
    epochs = [by_label(everything(updates, epoch)) for epoch in (0, 1, 2, 0)]
    assert sorted(opened) == list(range(10))
    assert torch.equal(epochs[0], epochs[3])  # what is kept is not what was drawn on
    assert torch.equal(epochs[0], epochs[1]) is not augmented


@pytest.mark.parametrize(("augmented", "size"), [(False, 24 * 24 * 3), (True, 40 * 30 * 3)])
def test_only_as_many_images_are_kept_as_fit(updates_of, monkeypatch, augmented, size):
    monkeypatch.setattr("capaboost_vit.training.cache_size.MEMORY", 7 * size + 1)
    opener = Drawn()
    updates = updates_of(split_of(10, opener), augmented=augmented)
    first = by_label(everything(updates))
    assert torch.equal(first, by_label(everything(updates)))
    assert len(opener.opened) == 10 + 3


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_loader_processes_share_the_room(updates_of, monkeypatch, workers):
    monkeypatch.setattr("capaboost_vit.training.cache_size.MEMORY", 1000)

    def room(**options):
        return updates_of(split_of(3), workers=workers, **options).examples.workers.loader.dataset.room

    assert room(augmented=True) == 1000 // max(1, workers)
    assert room(augmented=True, cache="none") == room() == 0  # pixels are kept in the process that trains


# the loader processes


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_stops_training_and_is_named(updates_of, tmp_path, workers):
    Image.new("RGB", (4, 4)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"")
    split = Split(tuple(str(tmp_path / name) for name in ("good.png", "bad.png")), (0, 0), Image.open)
    with pytest.raises(ValueError, match=r"cannot read the image .*bad\.png"):
        list(updates_of(split, workers=workers).epoch(0))


def test_closing_ends_the_loader_processes_at_once_wherever_they_are():
    gc.collect()
    before = set(multiprocessing.active_children())
    data = build_data_config(TrainConfig(img_size=24), MODEL)
    updates = train_loader(split_of(40), build_transform(data), batch_size=4, seed=0, workers=2)
    epoch = updates.epoch(0)
    next(epoch)
    assert len(set(multiprocessing.active_children()) - before) == 2
    start = time.monotonic()
    updates.close()
    updates.close()
    assert set(multiprocessing.active_children()) <= before
    assert time.monotonic() - start < 4  # a process that misses the message lives for 5 seconds and more
