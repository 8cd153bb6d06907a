"""Images that need no files: scikit-learn's digits, and generated ones."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
from PIL import Image

from ...core.seeds import words
from ...io.options import suggest
from .image_data import ImageData
from .split import Split

SHIFTS = ("inverted", "noisy")


def read_digits(spec: str) -> ImageData:
    """`digits`, or `digits:5-9` for some of its classes: 1,797 images of 8 x 8 pixels, split by half, quarter, quarter.

    `digits:0-9:inverted` (255 - value) and `digits:0-9:noisy` (plus N(0, 64^2), a function of the image alone, cut to 0
    to 255) are the same images in another domain.

    Raises:
        ValueError: the range is malformed, or beyond the digits; no such shift.
    """
    from sklearn.datasets import load_digits

    bounds = re.fullmatch(r"digits:([0-9])-([0-9])(?::(\w+))?", "digits:0-9" if spec == "digits" else spec)
    if bounds is None or bounds[1] > bounds[2]:
        raise ValueError(f"{spec!r}: write digits, or a range of its classes, which are 0-9, such as digits:5-9")
    shift = bounds[3]
    if shift is not None and shift not in SHIFTS:
        raise ValueError(f"{spec!r}: no shift {shift!r}{suggest(shift, SHIFTS)}; there are {' and '.join(SHIFTS)}")
    first, last = int(bounds[1]), int(bounds[2])
    digits = load_digits()
    images = partial(_digit, (digits.images * (255 / 16)).round().astype(np.uint8), shift)
    chosen = [i for i, label in enumerate(digits.target) if first <= label <= last]
    part_of = ("train", "val", "train", "test")  # by i % 4
    parts = {name: [i for i in chosen if part_of[i % 4] == name] for name in ("train", "val", "test")}
    splits = {
        name: Split(tuple(f"digit {i}" for i in part), tuple(int(digits.target[i]) - first for i in part), images)
        for name, part in parts.items()
    }
    return ImageData(spec, tuple(str(label) for label in range(first, last + 1)), splits)


def _digit(images: np.ndarray, shift: str | None, name: str) -> Image.Image:
    """Opens `digit i`."""
    pixels = images[int(name.split()[1])]
    if shift == "inverted":
        pixels = 255 - pixels
    elif shift == "noisy":
        noise = np.random.RandomState(words(f"noisy {name}")[0]).normal(0, 64, pixels.shape)
        pixels = (pixels + noise).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(pixels)


def read_synthetic(spec: str) -> ImageData:
    """`synthetic:CLASSES:TRAIN:VAL:TEST:SIZE`: so many classes, images of each split, and pixels of a side.

    Image i is of class i % CLASSES, and a function of split and i alone: noise around the mean colour of its class, so
    that a model can learn something. Nothing is kept in memory: this is for measurements of time.

    Raises:
        ValueError: the numbers are malformed, or zero (VAL alone may be).
    """
    if re.fullmatch(r"synthetic(:\d{1,9}){5}", spec) is None:
        raise ValueError(f"{spec!r}: write synthetic:CLASSES:TRAIN:VAL:TEST:SIZE, such as synthetic:10:800:200:5400:64")
    classes, train, val, test, size = map(int, spec.split(":")[1:])
    if not all((classes, train, test, size)):
        raise ValueError(f"{spec!r}: all of its numbers but VAL must be at least 1")
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
