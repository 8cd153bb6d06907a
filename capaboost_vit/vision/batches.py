"""From a split to batches: transforms seeded per image, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..core.seeds import seeded
from ..training.order import Update, epoch_order, share_of
from .cache import MEMORY, Batch, Cache, Key
from .data import Split
from .loader import Loader

_CPU = torch.device("cpu")


class ImageBatches:
    """Batches of uint8 images (B, 3, H, W) and labels (B,) of one split, in its order, for evaluation.

    Each image comes once in one of the processes; a process that would have none gets one with label -1. Images are
    transformed once and kept.

    Args:
        transform: from an RGB image to uint8 pixels (3, H, W), all of one size.
        workers: loader processes.
        keep: false for a split that is read only once.
        cache: where images are kept, a `kind` of Cache.
        device: where the batches are wanted.
        rank, world_size: this process takes every world_size-th image, from rank on.

    Attributes:
        names: of the images, by their places in the split.
        indices: places in the split of this process's images, in the order in which they are given out.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Image.Image], Any],
        *,
        batch_size: int,
        workers: int = 0,
        keep: bool = True,
        cache: str = "memory",
        device: torch.device = _CPU,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.names = split.names
        self.indices = range(rank, len(split), world_size)
        own = [(0, index, True) for index in self.indices]
        own = own or [(0, 0, False)] if len(split) else []
        self.keys = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]
        self.cache = Cache(
            Loader(_Images(split, transform), _collate, workers=workers, lasting=keep),
            split.labels,
            count=len(own),
            stride=world_size,
            kind=cache if keep else "none",
            device=device,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[Batch]:
        return self.cache.batches(self.keys)

    def close(self) -> None:
        """Ends the loader processes."""
        self.cache.close()


class ImageUpdates:
    """The training images of one split as updates of the optimizer.

    The order of an epoch depends on (seed, epoch) alone, and the augmentation of each image in it on (seed, epoch,
    index): not on the number of workers, on where the epoch is begun, on what was drawn before, or on the global random
    state, which is left untouched. The images of an update are dealt out to the processes, and each share is cut into
    `accumulation` batches. Images are kept as they are after the transform; before it where that is random, and then in
    memory, the first GiB of them.

    Args:
        transform: from an RGB image to uint8 pixels (3, H, W), all of one size.
        batch_size: images of an update in all processes; the last one of an epoch may be smaller.
        seed: keys the order and the transforms.
        augmented: the transform is random.
        workers: loader processes; before a random transform each keeps the images that it meets.
        cache: where images are kept, a `kind` of Cache.
        device: where the batches are wanted.
        accumulation: batches in which the share of a process is computed.
        rank, world_size: this process, and how many there are.
    """

    def __init__(
        self,
        split: Split,
        transform: Callable[[Image.Image], Any],
        *,
        batch_size: int,
        seed: int,
        augmented: bool = False,
        workers: int = 0,
        cache: str = "memory",
        device: torch.device = _CPU,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.size, self.batch_size, self.seed = len(split), batch_size, seed
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size
        room = 0 if cache == "none" else MEMORY // max(1, workers)
        images = _Images(split, transform, random=(seed, room) if augmented else None)
        self.cache = Cache(
            Loader(images, _collate, workers=workers, lasting=True),
            split.labels,
            count=len(split),
            kind="none" if augmented else cache,
            device=device,
        )

    def __len__(self) -> int:
        return math.ceil(self.size / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """The updates of one epoch from the `start`-th on; images that cannot be read raise ValueError."""
        updates = epoch_order(self.size, batch_size=self.batch_size, seed=self.seed, epoch=epoch)[start:]
        parts = [self._parts(epoch, update) for update in updates]
        batches = self.cache.batches([part for update in parts for part in update])
        for update, own in zip(updates, parts, strict=True):
            indices = [index for part in own for _, index, counts in part if counts]
            yield Update([next(batches) for _ in own], len(update), indices)

    def close(self) -> None:
        """Ends the loader processes."""
        self.cache.close()

    def _parts(self, epoch: int, update: np.ndarray) -> list[list[Key]]:
        """The share of this process in an update, in batches of keys."""
        share = share_of(update, accumulation=self.accumulation, rank=self.rank, world_size=self.world_size)
        return [[(epoch, index, counts) for index, counts in part] for part in share]


class Normalise:
    """Moves a batch to the device, if it is not there, and scales it: `(x / 255 - mean) / std`.

    Args:
        data: timm's input configuration.
        channels_last: the images come in torch's memory format of that name.
    """

    def __init__(self, data: dict[str, Any], device: torch.device, *, channels_last: bool = False) -> None:
        self.device = device
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.mean = 255 * torch.tensor(data["mean"], device=device).view(1, -1, 1, 1)
        self.std = 255 * torch.tensor(data["std"], device=device).view(1, -1, 1, 1)

    def __call__(self, batch: Batch) -> Batch:
        images, labels = (part.to(self.device, non_blocking=True) for part in batch)
        # in place in a copy: on a CPU a new tensor for each of the three steps takes several times as long
        return images.to(torch.float32, memory_format=self.format, copy=True).sub_(self.mean).div_(self.std), labels


class _Images(Dataset[Any]):
    """Pixels by key, or the error of an image that cannot be read: exceptions lose their text in a loader.

    random: seed of the transform, and bytes of images before it that are kept; None if it is not random.
    """

    def __init__(self, split: Split, transform: Callable[..., Any], *, random: tuple[int, int] | None = None) -> None:
        self.split, self.transform, self.random = split, transform, random
        self.kept: dict[int, Image.Image] = {}
        self.room = random[1] if random else 0

    def __getitem__(self, key: Key) -> Tensor | ValueError:
        epoch, index, _ = key
        try:
            image = self.kept[index] if index in self.kept else self._keep(index)
            if self.random is None:
                return torch.as_tensor(self.transform(image))
            with seeded("image", self.random[0], epoch, index):
                return torch.as_tensor(self.transform(image))
        except ValueError as error:
            return error

    def _keep(self, index: int) -> Image.Image:
        """The image; kept if there is room."""
        image = self.split.image(index)
        if self.room and self.room >= (size := 3 * image.width * image.height):
            self.kept[index] = image
            self.room -= size
        return image


def _collate(items: list[Any]) -> Tensor | ValueError:
    for item in items:
        if isinstance(item, ValueError):
            return item
    return torch.stack(items)
