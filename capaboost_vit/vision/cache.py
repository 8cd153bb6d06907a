"""Pixels that are read once: from then on a batch is one selection from a tensor, on the device where they fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor

from .loader import Loader

Batch = tuple[Tensor, Tensor]  # images (B, 3, H, W), labels (B,)
Key = tuple[int, int, bool]  # epoch, index, whether it counts

MEMORY = 1 << 30  # bytes of one split that are kept in memory
_SHARE = 0.1  # of a GPU's free memory, for one split
_CPU = torch.device("cpu")


class Cache:
    """Batches by keys on a device; each image comes from the loader once, as far as there is room for it.

    What is copied to a GPU is copied on a stream of its own, beside what the GPU computes.

    Args:
        loader: gives images (B, 3, H, W) for keys, all of one size.
        labels: of all images, by index; a key that does not count gets -1.
        count: images that will be asked for.
        stride: between their indices.
        kind: `memory` keeps the first GiB, `device` all of them on the device, `none` nothing; `auto` is `device` on a
            GPU of whose free memory they take a tenth at most, else `memory`.
        device: of the batches.

    Raises:
        ValueError: `device`, and they do not fit there (raised with the first batch).
    """

    def __init__(
        self,
        loader: Loader,
        labels: Sequence[int],
        *,
        count: int,
        stride: int = 1,
        kind: str = "memory",
        device: torch.device = _CPU,
    ) -> None:
        self.loader, self.labels, self.count, self.stride = loader, labels, count, stride
        self.kind, self.device = kind, device
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.kept: Tensor | None = None  # the image of each place, which is index // stride
        self.filled: set[int] = set()  # indices of the images that are there

    def batches(self, keys: Sequence[list[Key]]) -> Iterator[Batch]:
        """One pass: a batch for each list of keys. Raises ValueError for an image that cannot be read."""
        lacking = [[row for row, (_, index, _) in enumerate(part) if index not in self.filled] for part in keys]
        asked = [[part[row] for row in rows] for part, rows in zip(keys, lacking, strict=True) if rows]
        loaded = self.loader.batches(asked)
        if self.kept is None:
            first = next(loaded, None)
            if first is None:
                return
            self.kept, loaded = self._room_for(first), chain([first], loaded)
        # both cross to the device once a pass, not once a batch
        sizes, flat = [len(part) for part in keys], [key for part in keys for key in part]
        answers = torch.tensor([self.labels[index] if counts else -1 for _, index, counts in flat])
        places = torch.tensor([index // self.stride for _, index, _ in flat], device=self.kept.device)
        parts = zip(keys, lacking, places.split(sizes), answers.to(self.device).split(sizes), strict=True)
        for part, rows, where, labels in parts:
            if rows:
                images = self._take_in(self.kept, part, rows, where, next(loaded))
            else:
                images = torch.index_select(self.kept, 0, where, out=self._empty(self.kept, len(part)))
            yield self._moved(images), labels

    def close(self) -> None:
        """Ends the loader processes."""
        self.loader.close()

    def _room_for(self, images: Tensor) -> Tensor:
        """An empty tensor for as many images like these as are kept."""
        needed = self.count * images[0].nbytes
        room, device = (0 if self.kind == "none" else MEMORY), _CPU
        if self.kind == "device" or (
            self.kind == "auto" and self.stream is not None and needed <= _SHARE * _free(self.device)
        ):
            room, device = needed, self.device
        shape = (min(self.count, room // images[0].nbytes), *images.shape[1:])
        try:
            with torch.inference_mode(False):  # or nothing could be written into it outside of an evaluation
                return torch.empty(shape, dtype=images.dtype, device=device)
        except torch.OutOfMemoryError as error:
            raise ValueError(
                f"--cache device: {self.count} images take {needed / 1e9:.1f} GB, more than is free: say --cache memory"
            ) from error

    def _take_in(self, kept: Tensor, part: list[Key], rows: list[int], where: Tensor, new: Tensor) -> Tensor:
        """The images of a batch, those of some rows new; these are kept from now on, if there is room."""
        images = new = self._moved(new) if kept.device.type == self.device.type else new
        if len(rows) < len(part):
            others = sorted({*range(len(part))} - {*rows})
            images = self._empty(kept, len(part))
            images[rows], images[others] = new, kept[where[others]]
        staying = [row for row in rows if part[row][1] // self.stride < len(kept)]
        if staying:
            kept[where[staying]] = images[staying]
            self.filled.update(part[row][1] for row in staying)
        return images

    def _empty(self, kept: Tensor, size: int) -> Tensor:
        """A batch without contents beside what is kept, in pinned memory if it is to be copied to a GPU."""
        pinned = self.stream is not None and kept.device.type == "cpu"
        return torch.empty((size, *kept.shape[1:]), dtype=kept.dtype, device=kept.device, pin_memory=pinned)

    def _moved(self, images: Tensor) -> Tensor:
        """The images on the device."""
        if self.stream is None or images.device.type == self.device.type:
            return images.to(self.device)
        with torch.cuda.stream(self.stream):
            images = images.to(self.device, non_blocking=True)
        now = torch.cuda.current_stream(self.device)
        now.wait_stream(self.stream)
        images.record_stream(now)
        return images


def _free(device: torch.device) -> int:
    """Bytes of a GPU that nobody has taken."""
    return torch.cuda.mem_get_info(device)[0]
