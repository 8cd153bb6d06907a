"""Generated images, for measurements of time on machines without data."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
from PIL import Image

from ...core.seeds import words
from .image_data import ImageData, Split


def read_synthetic(spec: str) -> ImageData:
    """`synthetic:CLASSES:TRAIN:VAL:TEST:SIZE`: so many classes, images of each split, and pixels of a side.

    Image i is of class i % CLASSES, and a function of split and i alone: noise around the mean colour of its class, so
    that a model can learn something. Nothing is kept in memory.

    Raises:
        ValueError: the numbers are malformed, or zero (VAL alone may be).
    """
    if re.fullmatch(r"synthetic(:\d{1,9}){5}", spec) is None:
        raise ValueError(f"{spec!r}: write synthetic:CLASSES:TRAIN:VAL:TEST:SIZE, such as synthetic:10:800:200:5400:64")
    classes, train, val, test, size = map(int, spec.split(":")[1:])
    if not all((classes, train, test, size)):
        raise ValueError(f"{spec!r}: only the validation images may be none")
    sizes = {"train": train, "val": val, "test": test}
    splits = {
        name: Split(
            tuple(f"{name} {i}" for i in range(n)), tuple(i % classes for i in range(n)), partial(_draw, classes, size)
        )
        for name, n in sizes.items()
        if n
    }
    return ImageData(spec, tuple(f"class {i}" for i in range(classes)), splits)


def _draw(classes: int, size: int, name: str) -> Image.Image:
    """Opens `train 17`."""
    label = int(name.split()[1]) % classes
    colour = np.array([words("synthetic colour", label)[i] % 128 for i in range(3)])
    # RandomState's stream is frozen: the same pixels with every version of numpy
    noise = np.random.RandomState(words(f"synthetic {name}")[0]).randint(0, 128, (size, size, 3))
    return Image.fromarray((colour + noise).astype(np.uint8))
