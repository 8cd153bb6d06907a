"""From a split to batches: timm's transforms, seeded per image, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from timm.data import create_transform, resolve_data_config
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from ..training.config import TrainConfig
from ..training.loop import Batch
from .data import Split

_CACHE_BYTES = 1 << 30  # a split that needs no more, as uint8, is decoded once and kept


def data_config(model: nn.Module, config: TrainConfig) -> dict[str, Any]:
    """timm's input configuration of the model (size, mean, std, crop, interpolation), with the run's overrides."""
    names = ("img_size", "crop_pct", "crop_mode", "interpolation")
    asked = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return resolve_data_config(asked, model=model)


class ImageBatches:
    """Batches of uint8 images (B, 3, H, W) and labels (B,) of one split.

    In training the order of an epoch, and the augmentation of each image in it, depend on (seed, epoch, index) alone:
    not on the number of workers, on what was drawn before, or on the global random state, which is left untouched.
    Otherwise the order is that of the split. Without augmentation the images are transformed once and kept, while
    they fit into one GiB.

    Args:
        training: shuffle, and augment unless `config.no_aug`.
        data: timm's input configuration, see `data_config`.
    """

    def __init__(self, split: Split, config: TrainConfig, data: dict[str, Any], *, training: bool) -> None:
        augmented = training and not config.no_aug
        self.batch_size = config.batch_size if training else config.validation_batch_size
        self.sampler = _EpochOrder(len(split), config.seed if training else None)
        images = _Images(split, _transform(config, data, augmented), config.seed if augmented else None)
        size = len(split) * 3 * data["input_size"][-1] * data["input_size"][-2]
        images.cache = {} if not augmented and size <= _CACHE_BYTES and config.workers == 0 else None
        self.loader = DataLoader(
            images,
            batch_size=self.batch_size,
            sampler=self.sampler,
            num_workers=config.workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=config.workers > 0 and training,
        )

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the last one may be smaller."""
        self.sampler.epoch = epoch
        return iter(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        return self.epoch(0)


class Normalise:
    """Moves a batch to the device and scales it there: `(x / 255 - mean) / std`."""

    def __init__(self, data: dict[str, Any], device: torch.device) -> None:
        self.device = device
        self.mean = 255 * torch.tensor(data["mean"], device=device).view(1, -1, 1, 1)
        self.std = 255 * torch.tensor(data["std"], device=device).view(1, -1, 1, 1)

    def __call__(self, batch: Batch) -> Batch:
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        return (images.float() - self.mean) / self.std, labels


def _transform(config: TrainConfig, data: dict[str, Any], augmented: bool) -> Callable[..., Any]:
    """timm's transform up to uint8 pixels (3, H, W)."""
    common = {"input_size": data["input_size"], "interpolation": data["interpolation"], "use_prefetcher": True}
    if not augmented:
        return create_transform(**common, crop_pct=data["crop_pct"], crop_mode=data["crop_mode"])
    return create_transform(
        **common,
        is_training=True,
        scale=(config.scale[0], config.scale[1]),
        hflip=config.hflip,
        color_jitter=config.color_jitter,
        auto_augment=config.aa,
    )


class _EpochOrder(Sampler[tuple[int, int]]):
    """Yields (epoch, index): a permutation keyed by (seed, epoch), or the plain order without a seed."""

    def __init__(self, size: int, seed: int | None) -> None:
        self.size, self.seed, self.epoch = size, seed, 0

    def __len__(self) -> int:
        return self.size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = range(self.size)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist()
        return ((self.epoch, index) for index in order)


class _Images(Dataset[tuple[Tensor, int]]):
    cache: dict[int, Tensor] | None = None

    def __init__(self, split: Split, transform: Callable[..., Any], seed: int | None) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        if self.cache is not None and index in self.cache:
            return self.cache[index], self.split.labels[index]
        image = self.split.image(index)
        if self.seed is None:
            pixels = torch.as_tensor(self.transform(image))
        else:
            with _seeded(self.seed, epoch, index):
                pixels = torch.as_tensor(self.transform(image))
        if self.cache is not None:
            self.cache[index] = pixels
        return pixels, self.split.labels[index]


@contextmanager
def _seeded(*key: int) -> Iterator[None]:
    """Seeds python, numpy and torch by the key for the block (timm's augmentations draw from all three)."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    first, second, third = (int(word) for word in np.random.SeedSequence(list(key)).generate_state(3))
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    torch.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
