"""scikit-learn's 1,797 digits, 8 x 8 pixels: real images that need no download."""

from __future__ import annotations

from functools import partial

import numpy as np
from PIL import Image

from .image_data import ImageData
from .split import Split


def read_digits(spec: str) -> ImageData:
    """`digits`, or `digits:5-9` for some of its classes; split by half, quarter, quarter.

    Raises:
        ValueError: the range is malformed, or beyond the digits.
    """
    from sklearn.datasets import load_digits

    first, last = 0, 9
    if ":" in spec:
        try:
            first, last = (int(part) for part in spec.partition(":")[2].split("-"))
        except ValueError:
            raise ValueError(f"{spec!r}: write digits, or a range of its classes such as digits:5-9") from None
        if not 0 <= first <= last <= 9:
            raise ValueError(f"{spec!r}: the digits' classes are 0-9")
    digits = load_digits()
    images = partial(_digit, (digits.images * (255 / 16)).round().astype(np.uint8))
    chosen = [i for i, label in enumerate(digits.target) if first <= label <= last]
    parts = {"train": [i for i in chosen if i % 2 == 0], "val": [i for i in chosen if i % 4 == 1]}
    parts["test"] = [i for i in chosen if i % 4 == 3]
    splits = {
        name: Split(tuple(f"digit {i}" for i in part), tuple(int(digits.target[i]) - first for i in part), images)
        for name, part in parts.items()
    }
    return ImageData(spec, tuple(str(label) for label in range(first, last + 1)), splits)


def _digit(images: np.ndarray, name: str) -> Image.Image:
    """Opens `digit i`."""
    return Image.fromarray(images[int(name.split()[1])])
