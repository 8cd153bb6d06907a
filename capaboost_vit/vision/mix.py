"""What happens to a whole training batch on its device: random erasing, mixup, cutmix."""

from __future__ import annotations

from collections.abc import Callable

import torch
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from ..training.order import Batch
from .config import TrainConfig


def make_mix(config: TrainConfig, *, num_classes: int, device: torch.device) -> Callable[[Batch], Batch]:
    """timm's random erasing (boxes take the mean colour), then torchvision's MixUp or CutMix, one of them per batch.

    With mixup or cutmix the labels become probabilities (B, num_classes). A batch whose labels are -1 counts for
    nothing and is left alone.
    """
    erase = RandomErasing(config.reprob, mode="const", device=device) if config.reprob > 0 else None
    kinds = [
        kind(alpha=alpha, num_classes=num_classes)
        for kind, alpha in ((v2.MixUp, config.mixup), (v2.CutMix, config.cutmix))
        if alpha > 0
    ]
    blend = v2.RandomChoice(kinds) if kinds else None

    def mix(batch: Batch) -> Batch:
        images, labels = batch
        if erase is not None:
            images = erase(images)
        # one image alone may be such a stand-in; looking at its label waits for the device
        if blend is not None and not (len(labels) == 1 and bool(labels[0] < 0)):
            images, labels = blend(images, labels)
        return images, labels

    return mix
