"""From a split to batches: transforms seeded per image, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from .data import Split

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W), labels (B,)

_KEPT_BYTES = 1 << 30


class ImageBatches:
    """Batches of uint8 images (B, 3, H, W) and labels (B,) of one split.

    With a seed the order of an epoch depends on (seed, epoch) alone, and the augmentation of each image in it on (seed,
    epoch, index): not on the number of workers, on what was drawn before, or on the global random state, which is left
    untouched. Without a seed the order is that of the split. Images whose transform is not random are transformed once
    and kept, the first GiB of them.

    Args:
        transform: from an RGB image to uint8 pixels (3, H, W).
        seed: shuffle, keyed by it; None keeps the order.
        augmented: the transform is random; needs a seed.
        workers: loader processes; with any, images are not kept.
        keep: false for a split that is read only once.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Image.Image], Any],
        *,
        batch_size: int,
        seed: int | None = None,
        augmented: bool = False,
        workers: int = 0,
        keep: bool = True,
    ) -> None:
        if augmented and seed is None:
            raise ValueError("a random transform needs a seed")
        self.order = _EpochOrder(len(split), seed)
        self.loader = DataLoader(
            _Images(split, transform, seed if augmented else None, _KEPT_BYTES if keep and workers == 0 else 0),
            batch_size=batch_size,
            sampler=self.order,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0 and seed is not None,
            generator=torch.Generator(),  # or each epoch would take a number from the global random state
        )

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch; the last one may be smaller."""
        self.order.epoch = epoch
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
    def __init__(self, split: Split, transform: Callable[[Image.Image], Any], seed: int | None, room: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed
        self.kept: dict[int, Tensor] = {}
        self.room = room if seed is None else 0  # bytes

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        epoch, index = key
        label = self.split.labels[index]
        if index in self.kept:
            return self.kept[index], label
        image = self.split.image(index)
        with nullcontext() if self.seed is None else _seeded(self.seed, epoch, index):
            pixels = torch.as_tensor(self.transform(image))
        if self.room >= pixels.nbytes:
            self.kept[index] = pixels
            self.room -= pixels.nbytes
        return pixels, label


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
