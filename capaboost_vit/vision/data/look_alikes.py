"""Images that look alike though their bytes differ: pairs whose thumbnails correlate, found without comparing all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 16  # pixels of a thumbnail
THRESHOLD = 0.97
_TABLES, _BITS = 32, 24
_FLAT = 4.0  # standard deviation, of 255 levels, below which a thumbnail is noise
_NEXT = 50  # images of one key that each is compared with


class LookAlike(NamedTuple):
    """Two images, by their places among those that were compared, and the correlation of their thumbnails."""

    first: int
    second: int
    correlation: float


def thumbnail(image: Image.Image) -> bytes:
    """16 x 16 grey levels of an RGB image."""
    return image.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX).tobytes()


def look_alikes(thumbnails: Sequence[bytes]) -> list[LookAlike]:
    """Pairs with a correlation above 0.97, the highest first; in time and memory that grow with the images alone.

    Locality-sensitive hashing by signs of random projections (Charikar 2002): two thumbnails with correlation c agree
    in a bit with probability `1 - arccos(c) / pi`, so a pair at the threshold shares one of 32 keys of 24 bits in 99 of
    100 cases. Each is compared with the next 50 of its key at most. Flat images are left out.
    """
    levels = np.frombuffer(b"".join(thumbnails), np.uint8).reshape(len(thumbnails), SIDE * SIDE).astype(np.float32)
    levels -= levels.mean(1, keepdims=True)
    norms = np.linalg.norm(levels, axis=1)
    places = np.flatnonzero(norms > _FLAT * SIDE)
    vectors = levels[places] / norms[places, None]
    projections = np.random.RandomState(0).standard_normal((_TABLES, SIDE * SIDE, _BITS)).astype(np.float32)
    found: dict[tuple[int, int], float] = {}
    for projection in projections:
        keys = ((vectors @ projection) > 0) @ (1 << np.arange(_BITS))
        order = np.argsort(keys, kind="stable")
        for step in range(1, _NEXT + 1):
            same = np.flatnonzero(keys[order[step:]] == keys[order[:-step]])
            if not len(same):
                break
            one, other = order[same], order[same + step]
            correlations = np.einsum("ij,ij->i", vectors[one], vectors[other])
            alike = correlations > THRESHOLD
            pairs = np.sort(places[np.stack([one[alike], other[alike]], 1)], axis=1)
            found |= zip(map(tuple, pairs.tolist()), correlations[alike].tolist(), strict=True)
    return sorted(
        (LookAlike(*pair, value) for pair, value in found.items()), key=lambda pair: (-pair.correlation, pair)
    )
