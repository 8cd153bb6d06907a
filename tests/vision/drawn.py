"""A split of pictures of noise that counts how often each was opened, and updates made of one."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from capaboost_vit.training.loader import TrainLoader
from capaboost_vit.vision.data import Split
from capaboost_vit.vision.loader import ImageExamples


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


def train_loader(split, transform, *, seed, augmented=False, workers=0, cache="memory", device=None, **share):
    """As a run makes it."""
    reading = {"workers": workers, "cache": cache, "device": device or torch.device("cpu")}
    examples = ImageExamples(split, transform, seed=seed if augmented else None, **reading)
    return TrainLoader(examples, seed=seed, **share)
