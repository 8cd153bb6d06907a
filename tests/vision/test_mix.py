"""Random erasing, mixup and cutmix are those of timm and torchvision, keyed by what surrounds them."""

from __future__ import annotations

import random

import pytest
import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from capaboost_vit.core.seeds import seeded
from capaboost_vit.vision.build import make_mix
from capaboost_vit.vision.config import TrainConfig

CPU = torch.device("cpu")


def batch_of(size=8, classes=5):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(size, 3, 16, 16, generator=draw), torch.randint(classes, (size,), generator=draw)


def mixed(batch, *key, **options):
    images, labels = batch
    with seeded("update", *(key or (1, 2, 0))):
        return make_mix(TrainConfig(**options), num_classes=5, device=CPU)((images.clone(), labels.clone()))


def test_without_options_nothing_happens():
    batch = batch_of()
    images, labels = mixed(batch)
    assert torch.equal(images, batch[0])
    assert torch.equal(labels, batch[1])


@pytest.mark.parametrize(
    ("options", "oracle"),
    [
        ({"mixup": 0.8}, v2.MixUp(alpha=0.8, num_classes=5)),
        ({"cutmix": 1.0}, v2.CutMix(alpha=1.0, num_classes=5)),
        (
            {"mixup": 0.8, "cutmix": 1.0},
            v2.RandomChoice([v2.MixUp(alpha=0.8, num_classes=5), v2.CutMix(alpha=1.0, num_classes=5)]),
        ),
    ],
    ids=["mixup", "cutmix", "both"],
)
@pytest.mark.parametrize("size", [1, 2, 7, 8])
def test_blending_is_torchvisions(options, oracle, size):
    batch = batch_of(size)
    for update in range(6):
        if "mixup" in options and "cutmix" in options:
            with seeded("update", 1, update, 0):
                kind = oracle.transforms[int(torch.multinomial(torch.ones(2) / 2, 1))]
                images, labels = kind(*batch)
        else:
            with seeded("update", 1, update, 0):
                int(torch.multinomial(torch.ones(1), 1))  # which of one
                images, labels = oracle(*batch)
        found = mixed(batch, 1, update, 0, **options)
        assert torch.equal(found[0], images)
        assert torch.equal(found[1], labels)
        assert found[1].shape == (size, 5)
        torch.testing.assert_close(found[1].sum(1), torch.ones(size))
        assert found[1].min() >= 0


@pytest.mark.parametrize("size", [1, 5, 8])
@pytest.mark.parametrize("reprob", [0.3, 1.0])
def test_erasing_is_timms_with_the_mean_colour(size, reprob):
    batch = batch_of(size)
    with seeded("update", 1, 2, 0):
        expected = RandomErasing(reprob, mode="const", device="cpu")(batch[0].clone())
    images, labels = mixed(batch, reprob=reprob)
    assert torch.equal(images, expected)
    assert torch.equal(labels, batch[1])
    erased = (images != batch[0]).flatten(1).any(1)
    assert images[images != batch[0]].eq(0).all()  # 0 is the mean after normalisation
    assert erased.all() if reprob == 1 else not erased.all() or size == 1


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"reprob": 1.0}], ids=str)
def test_what_happens_depends_on_seed_update_and_process_only(options):
    batch = batch_of()
    first = mixed(batch, 4, 7, 0, **options)
    torch.rand(3)
    random.random()
    again = mixed(batch, 4, 7, 0, **options)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    for key in ((5, 7, 0), (4, 8, 0), (4, 7, 1)):
        assert not torch.equal(first[0], mixed(batch, *key, **options)[0])


def test_each_batch_gets_one_of_both_and_each_gets_its_turn():
    batch = batch_of()
    kinds = set()
    for update in range(20):
        images, _ = mixed(batch, 1, update, 0, mixup=1.0, cutmix=1.0)
        untouched = (images == batch[0]).float().mean().item()
        kinds.add("cutmix" if untouched > 0 else "mixup")
    assert kinds == {"mixup", "cutmix"}


@pytest.mark.parametrize("options", [{"mixup": 0.8}, {"cutmix": 1.0}, {"mixup": 0.8, "cutmix": 1.0, "reprob": 1.0}])
def test_an_image_that_counts_for_nothing_keeps_its_label(options):
    images, labels = mixed((batch_of(1)[0], torch.tensor([-1])), **options)
    assert labels.tolist() == [-1]
    assert images.shape == (1, 3, 16, 16)
