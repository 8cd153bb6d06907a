"""Pixels are read once, wherever they are kept, and no bit depends on where that is."""

from __future__ import annotations

import pytest
import timm
import torch
from drawn import Drawn, split_of, train_loader
from PIL import Image

from capaboost_vit.training import cache_size
from capaboost_vit.vision.build import build_data_config, build_transform
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.loader import ImageExamples, image_eval_loader

MODEL = timm.create_model("test_vit")
DATA = build_data_config(TrainConfig(img_size=24), MODEL)
SIZE = 3 * 24 * 24
KINDS = ("auto", "memory", "device", "none")
every_kind = pytest.mark.parametrize("kind", KINDS)
CUDA = torch.device("cuda")


@pytest.fixture
def updates_of():
    made = []

    def make(split=None, *, batch_size=4, seed=0, augmented=False, **options):
        transform = build_transform(DATA, TrainConfig(no_aug=False) if augmented else None)
        split = split_of(18) if split is None else split
        made.append(train_loader(split, transform, batch_size=batch_size, seed=seed, augmented=augmented, **options))
        return made[-1]

    yield make
    for updates in made:
        updates.close()


def batches_of(count, opener=None, **options):
    return image_eval_loader(split_of(count, opener), build_transform(DATA), batch_size=4, **options)


def run(updates, epochs):
    """All that comes of epochs, given as (epoch, start), on the CPU."""
    return [
        (update.size, update.indices, [(images.cpu(), labels.cpu()) for images, labels in update.batches])
        for epoch, start in epochs
        for update in updates.epoch(epoch, start)
    ]


def assert_same(found, expected):
    assert [entry[:2] for entry in found] == [entry[:2] for entry in expected]
    for (*_, batches), (*_, others) in zip(found, expected, strict=True):
        assert_same_batches(batches, others)


def assert_same_batches(found, expected):
    for (images, labels), (pixels, answers) in zip(found, expected, strict=True):
        assert images.dtype == pixels.dtype == torch.uint8
        assert torch.equal(images.cpu(), pixels)
        assert torch.equal(labels.cpu(), answers)


def unread(*_):
    raise AssertionError("an image was read again")


# the same bits


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in KINDS),
        ("memory", {"accumulation": 3}),
        ("memory", {"workers": 2}),
        ("auto", {"augmented": True}),
        ("device", {"augmented": True, "workers": 1}),
        ("device", {"rank": 1, "world_size": 2}),
        ("memory", {"rank": 3, "world_size": 5}),  # none of the last update: an image that counts for nothing
    ],
    ids=str,
)
def test_updates_are_the_same_wherever_images_are_kept(updates_of, kind, options):
    epochs = [(0, 3), (1, 0), (2, 0), (0, 0), (1, 2)]  # begun in the middle, as when a run goes on
    found = run(updates_of(**options, cache=kind), epochs)
    fresh = [entry for epoch in epochs for entry in run(updates_of(**options, cache="none"), [epoch])]
    assert_same(found, fresh)


@pytest.mark.parametrize(
    ("kind", "workers", "rank", "world_size"),
    [("auto", 0, 0, 1), ("memory", 2, 1, 3), ("device", 0, 4, 20), ("none", 0, 1, 3), ("memory", 0, 14, 20)],
)
def test_evaluation_batches_are_the_same_wherever_images_are_kept(kind, workers, rank, world_size):
    share = {"rank": rank, "world_size": world_size}
    expected = list(batches_of(11, keep=False, **share))
    batches = batches_of(11, workers=workers, cache=kind, **share)
    for _ in range(3):
        assert_same_batches(batches, expected)
    batches.close()


@pytest.mark.parametrize("room", [0, SIZE - 1, SIZE, 5 * SIZE, 17 * SIZE, 18 * SIZE])
def test_what_does_not_fit_is_read_again_and_stands_in_its_row(updates_of, monkeypatch, room):
    monkeypatch.setattr(cache_size, "MEMORY", room)
    epochs, opener = [(0, 1), (1, 0), (2, 0)], Drawn()
    found = run(updates_of(split_of(18, opener)), epochs)
    assert_same(found, run(updates_of(cache="none"), epochs))
    kept, skipped = room // SIZE, 4  # images of the update that was left out
    assert len(opener.opened) in range(3 * 18 - skipped - 2 * kept, 3 * 18 - 2 * kept + 1)


@pytest.mark.parametrize("kind", ["memory", "device"])
def test_a_pass_that_is_left_leaves_nothing_wrong_behind(updates_of, kind):
    updates, epochs = updates_of(cache=kind), [(2, 0), (0, 0)]
    for epoch in (0, 1):
        left = updates.epoch(epoch)
        next(left)
        next(left)
    assert_same(run(updates, epochs), run(updates_of(cache="none"), epochs))


@pytest.mark.parametrize("kind", ["memory", "device"])
def test_what_is_done_to_a_batch_does_not_reach_what_is_kept(updates_of, kind):
    updates = updates_of(cache=kind)
    for epoch in (0, 1):
        for update in updates.epoch(epoch):
            update.batches[0][0].zero_()
    assert_same(run(updates, [(2, 0)]), run(updates_of(cache="none"), [(2, 0)]))


def test_what_is_kept_in_an_evaluation_can_be_added_to_outside_of_one(monkeypatch):
    batches, expected = batches_of(11), list(batches_of(11, keep=False))
    with torch.inference_mode():
        next(iter(batches))
    assert_same_batches(batches, expected)
    assert not next(iter(batches))[0].is_inference()


# reading once


@pytest.mark.parametrize(("kind", "workers"), [("auto", 0), ("memory", 2), ("device", 0)])
def test_after_the_first_epoch_the_loader_is_not_asked(updates_of, monkeypatch, kind, workers):
    opener = Drawn()
    updates = updates_of(split_of(18, opener), cache=kind, workers=workers)
    run(updates, [(0, 0)])
    assert sorted(map(int, opener.opened)) == (list(range(18)) if workers == 0 else [])
    monkeypatch.setattr(updates.examples.workers.loader, "collate_fn", unread)
    monkeypatch.setattr(updates.examples.workers, "_begin", unread)
    run(updates, [(1, 0), (2, 3)])


def test_nothing_is_kept_without_a_cache(updates_of):
    for augmented in (False, True):
        opener = Drawn()
        updates = updates_of(split_of(18, opener), cache="none", augmented=augmented)
        run(updates, [(0, 0), (1, 0)])
        assert len(opener.opened) == 36


def test_images_before_a_random_transform_stay_in_memory(updates_of):
    updates = updates_of(cache="device", augmented=True)
    run(updates, [(0, 0)])
    assert all(isinstance(image, Image.Image) for image in updates.examples.workers.loader.dataset.images.values())
    assert len(updates.examples.workers.loader.dataset.images) == 18
    assert len(updates.examples.cached) == 0


# where


@pytest.mark.parametrize(("free", "kept"), [(180 * SIZE, 18), (180 * SIZE - 1, 2)])
def test_auto_takes_a_tenth_of_a_gpus_free_memory_or_else_memory(monkeypatch, free, kept):
    monkeypatch.setattr(cache_size, "MEMORY", 2 * SIZE)
    monkeypatch.setattr(cache_size, "_free", lambda device: free)
    room, place = cache_size.room_for("auto", 18 * SIZE, torch.device("cuda"))
    assert room // SIZE == kept
    assert place.type == ("cuda" if kept == 18 else "cpu")


def test_memory_holds_the_first_gib_and_a_device_all(updates_of, monkeypatch):
    monkeypatch.setattr(cache_size, "MEMORY", 2 * SIZE)
    for kind, places in (("memory", 2), ("auto", 2), ("device", 18), ("none", 0)):
        updates = updates_of(cache=kind)
        run(updates, [(0, 0)])
        assert len(updates.examples.cached) == places


def test_a_process_of_many_has_room_for_its_share_alone():
    batches = batches_of(11, rank=1, world_size=3)
    list(batches)
    assert len(batches.examples.cached) == 4
    assert batches.examples.filled == {1, 4, 7, 10}


def test_images_that_do_not_fit_on_the_device_are_counted(updates_of, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError

    cache = updates_of(cache="device").examples
    monkeypatch.setattr(torch, "empty", full)
    with pytest.raises(ValueError, match=r"--cache device: 18 images take 0\.5 GB, .* say --cache memory"):
        cache._room_for(torch.zeros(1, 3, 3000, 3000, dtype=torch.uint8))


# on a GPU


@pytest.mark.gpu
@every_kind
@pytest.mark.parametrize("options", [{}, {"workers": 2, "accumulation": 3}, {"augmented": True}], ids=str)
def test_a_gpu_gets_the_same_bits(updates_of, kind, options):
    epochs = [(0, 3), (1, 0), (2, 0)]
    assert_same(run(updates_of(**options, cache=kind, device=CUDA), epochs), run(updates_of(**options), epochs))


@pytest.mark.gpu
@pytest.mark.parametrize(("kind", "on"), [("auto", "cuda"), ("device", "cuda"), ("memory", "cpu")])
def test_a_gpu_keeps_the_images_or_gets_them_from_pinned_memory(kind, on, monkeypatch):
    batches, moved, move = batches_of(11, cache=kind, device=CUDA), [], ImageExamples._moved
    monkeypatch.setattr(ImageExamples, "_moved", lambda self, images: moved.append(images) or move(self, images))
    for _ in range(2):
        assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
    assert batches.examples.cached.device.type == on
    assert all(images.is_cuda or images.is_pinned() for images in moved)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_second_epoch_on_a_gpu_waits_for_nothing_but_its_order(updates_of):
    updates = updates_of(cache="device", device=CUDA)
    run(updates, [(0, 0)])
    epoch = updates.epoch(1)
    next(epoch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert len(list(epoch)) == 4
    finally:
        torch.cuda.set_sync_debug_mode("default")
