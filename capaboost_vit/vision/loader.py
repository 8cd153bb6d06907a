"""Images as batches: read once, transformed with seeds counted per image, and kept where there is room."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..core.seeds import seeded
from ..training import cache_size
from ..training.loader import Batch, EvalLoader, Part
from .data import Split
from .workers import Workers

Transform = Callable[[Image.Image], Any]  # from an RGB image to uint8 pixels (3, H, W), all of one size

_CPU = torch.device("cpu")


def image_eval_loader(
    split: Split, transform: Transform, *, batch_size: int, rank: int = 0, world_size: int = 1, **reading: Any
) -> EvalLoader:
    """Batches of one split for an evaluation, in its order; `reading`: see `ImageExamples`."""
    images = ImageExamples(split, transform, share=range(rank, len(split), world_size), **reading)
    return EvalLoader(images, batch_size=batch_size, rank=rank, world_size=world_size, names=split.names)


class ImageExamples:
    """The images of one split, as batches of uint8 pixels and labels on a device.

    Each image is read once, as far as there is room for it: it is kept as it is after the transform; before it where
    that is random, and then in memory, the first GiB of them. A random transform depends on (seed, epoch, index) alone:
    not on the number of workers, or on the global random state, which is left untouched. What is copied to a GPU is
    copied on a stream of its own, beside what the GPU computes.

    Args:
        seed: of a random transform; None for one that is not random.
        share: the images that will be asked for; None: all.
        workers: loader processes; before a random transform each keeps the images that it meets.
        keep: false for a split that is read only once.
        cache: see `room_for`.
        device: where the batches are wanted.
        targets: of all images, (N, ...), instead of their labels; NaN stands beside what does not count.

    Raises:
        ValueError: with a batch: an image that cannot be read; `device`, and they do not fit there.
    """

    def __init__(
        self,
        split: Split,
        transform: Transform,
        *,
        seed: int | None = None,
        share: range | None = None,
        workers: int = 0,
        keep: bool = True,
        cache: str = "memory",
        device: torch.device = _CPU,
        targets: Tensor | None = None,
    ) -> None:
        self.targets, self.device = torch.tensor(split.labels) if targets is None else targets, device
        self.share = share or range(len(split) if share is None else 1)  # the first one stands in where there is none
        self.kind = cache if keep and seed is None else "none"
        room = cache_size.MEMORY // max(1, workers) if seed is not None and cache != "none" else 0
        self.workers = Workers(_Pixels(split, transform, seed=seed, room=room), workers=workers, lasting=keep)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.cached: Tensor | None = None  # an image for each place in the share
        self.filled: set[int] = set()  # indices of the images that are there

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Batch]:
        """One pass: images (B, 3, H, W) and targets (B, ...) for each part; what does not count has -1."""
        drawn, count = parts, len(self)
        parts = [[(index % count, counts) for index, counts in part] for part in parts]
        missing = [[row for row, (index, _) in enumerate(part) if index not in self.filled] for part in parts]
        keys = [[(epoch, part[row][0]) for row in rows] for part, rows in zip(drawn, missing, strict=True) if rows]
        read = self.workers.batches(keys)
        if self.cached is None:
            first = next(read, None)  # tells the size of an image
            if first is None:
                return
            self.cached, read = self._room_for(first), chain([first], read)
        # both cross to the device once a pass, not once a batch
        sizes, examples = [len(part) for part in parts], [example for part in parts for example in part]
        labels = self.targets[[index for index, _ in examples]]
        labels[[not counts for _, counts in examples]] = -1 if labels.dtype == torch.int64 else torch.nan
        places = torch.tensor([self.share.index(index) for index, _ in examples], device=self.cached.device)
        by_part = zip(parts, missing, places.split(sizes), labels.to(self.device).split(sizes), strict=True)
        for part, rows, part_places, part_labels in by_part:
            if rows:
                images = self._add(self.cached, part, rows, part_places, next(read))
            else:
                images = torch.index_select(self.cached, 0, part_places, out=self._empty(self.cached, len(part)))
            yield self._moved(images), part_labels

    def read_once(self) -> None:
        """Nothing is kept."""
        self.kind = "none"

    def close(self) -> None:
        """Ends the loader processes."""
        self.workers.close()

    def _room_for(self, images: Tensor) -> Tensor:
        """An empty tensor for as many images like these as are kept."""
        needed = len(self.share) * images[0].nbytes
        room, device = cache_size.room_for(self.kind, needed, self.device)
        shape = (min(len(self.share), room // images[0].nbytes), *images.shape[1:])
        try:
            with torch.inference_mode(False):  # or nothing could be written into it outside of an evaluation
                return torch.empty(shape, dtype=images.dtype, device=device)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"--cache device: {len(self.share)} images take {needed / 1e9:.1f} GB, more than is free: "
                "say --cache memory"
            ) from error

    def _add(self, cached: Tensor, part: Part, rows: list[int], places: Tensor, new: Tensor) -> Tensor:
        """The images of a batch, of which those of some rows are new and are kept from now on, if there is room."""
        images = new = self._moved(new) if cached.device.type == self.device.type else new
        if len(rows) < len(part):
            others = sorted({*range(len(part))} - {*rows})
            images = self._empty(cached, len(part))
            images[rows], images[others] = new, cached[places[others]]
        staying = [row for row in rows if self.share.index(part[row][0]) < len(cached)]
        if staying:
            cached[places[staying]] = images[staying]
            self.filled.update(part[row][0] for row in staying)
        return images

    def _empty(self, cached: Tensor, size: int) -> Tensor:
        """A batch without contents beside the cache, in pinned memory if it is to be copied to a GPU."""
        pinned = self.stream is not None and cached.device.type == "cpu"
        return torch.empty((size, *cached.shape[1:]), dtype=cached.dtype, device=cached.device, pin_memory=pinned)

    def _moved(self, images: Tensor) -> Tensor:
        """The images on the device."""
        if self.stream is None or images.device.type == self.device.type:
            return images.to(self.device)
        with torch.cuda.stream(self.stream):
            images = images.to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self.stream)
        images.record_stream(now)  # or their memory might be given away while this stream still reads it
        return images


class _Pixels(Dataset[Any]):
    """Pixels (B, 3, H, W) of keys (epoch, index), or the error of an image that cannot be read.

    Keeps `room` bytes of images as they are before a random transform.
    """

    def __init__(self, split: Split, transform: Transform, *, seed: int | None, room: int) -> None:
        self.split, self.transform, self.seed, self.room = split, transform, seed, room
        self.images: dict[int, Image.Image] = {}

    def __getitem__(self, keys: Sequence[tuple[int, int]]) -> Tensor | ValueError:
        try:
            return torch.stack([self._pixels(epoch, index) for epoch, index in keys])
        except ValueError as error:
            return error

    def _pixels(self, epoch: int, index: int) -> Tensor:
        place = index % len(self.split)  # others are repetitions, whose transform is random in another way
        image = self.images[place] if place in self.images else self._read(place)
        if self.seed is None:
            return torch.as_tensor(self.transform(image))
        with seeded("image", self.seed, epoch, index):
            return torch.as_tensor(self.transform(image))

    def _read(self, index: int) -> Image.Image:
        image = self.split.image(index)
        if self.room and self.room >= (size := 3 * image.width * image.height):
            self.images[index] = image
            self.room -= size
        return image


class Normalise:
    """Moves a batch to the device, if it is not there, and scales it: `(x / 255 - mean) / std`.

    `data` is timm's input configuration; `channels_last`, torch's memory format of that name, that of the images.
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
