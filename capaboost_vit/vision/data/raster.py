"""Anti-aliased shapes on textures, in whole numbers alone: the same pixels on every machine.

Coordinates are whole numbers from 0 to `SIDE`, x to the right and y down, whatever the size of the picture in pixels.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

SIDE = 1 << 14  # of a picture; products of two coordinates fit into int32
TURN = 256  # steps of a whole turn, clockwise on the screen
_SAMPLES = 4  # per pixel and axis
_RADIUS = 64  # of the circle around each shape below
_SINE = tuple(round(4096 * math.sin(2 * math.pi * step / TURN)) for step in range(TURN))  # none is near a half

Colour = tuple[int, int, int]
Polygon = tuple[tuple[int, int], ...]  # convex; corners (x, y), clockwise on the screen


class Disc(NamedTuple):
    """Centre and radius of a circle."""

    x: int
    y: int
    radius: int


# unions of discs and polygons around (0, 0); they point up, to negative y
SHAPES: dict[str, tuple[Disc | Polygon, ...]] = {
    "disc": (Disc(0, 0, 56),),
    "square": (((-45, -45), (45, -45), (45, 45), (-45, 45)),),
    "triangle": (((0, -64), (55, 32), (-55, 32)),),
    "cross": (((-20, -60), (20, -60), (20, 60), (-20, 60)), ((-60, -20), (60, -20), (60, 20), (-60, 20))),
    "arrow": (((0, -64), (46, -4), (-46, -4)), ((-18, -6), (18, -6), (18, 60), (-18, 60))),
    "drop": (((0, -64), (33, 4), (-33, 4)), Disc(0, 22, 38)),
    "tee": (((-48, -42), (48, -42), (48, -10), (-48, -10)), ((-16, -12), (16, -12), (16, 60), (-16, 60))),
    "heart": (((-52, 0), (52, 0), (0, 62)), Disc(-27, -16, 32), Disc(27, -16, 32)),
}


class Sprite(NamedTuple):
    """A shape of one colour.

    Args:
        x, y: the centre of the circle around it.
        radius: of that circle.
        angle: by which it is turned, of `TURN`.
    """

    shape: str
    x: int
    y: int
    radius: int
    angle: int
    colour: Colour


class Texture(NamedTuple):
    """Mixtures of two colours by the values (0 to 255) of a lattice of (n, n) points, interpolated bilinearly."""

    lattice: np.ndarray
    colours: tuple[Colour, Colour]


def draw(texture: Texture, sprites: tuple[Sprite, ...], size: int) -> np.ndarray:
    """The sprites, each over those before it, on the texture: (size, size, 3) of uint8."""
    pixels = _interpolate(texture, size)
    for sprite in sprites:
        _paint(pixels, sprite)
    return pixels.astype(np.uint8)


def outline(sprite: Sprite) -> tuple[Disc | Polygon, ...]:
    """The discs and polygons of a sprite, where they lie in the picture."""
    sine, cosine = _SINE[sprite.angle % TURN], _SINE[(sprite.angle + TURN // 4) % TURN]
    scale = _RADIUS << 12  # times that of the sines

    def place(x: int, y: int) -> tuple[int, int]:
        right, down = cosine * x - sine * y, sine * x + cosine * y
        return sprite.x + right * sprite.radius // scale, sprite.y + down * sprite.radius // scale

    return tuple(
        Disc(*place(part.x, part.y), part.radius * sprite.radius // _RADIUS)
        if isinstance(part, Disc)
        else tuple(place(*corner) for corner in part)
        for part in SHAPES[sprite.shape]
    )


def _paint(pixels: np.ndarray, sprite: Sprite) -> None:
    size, samples = len(pixels), _samples(len(pixels))
    left, top = (max(0, (at - sprite.radius) * size // SIDE) for at in (sprite.x, sprite.y))
    right, bottom = (min(size, (at + sprite.radius) * size // SIDE + 1) for at in (sprite.x, sprite.y))
    x = samples[left * _SAMPLES : right * _SAMPLES]
    y = samples[top * _SAMPLES : bottom * _SAMPLES, None]
    inside = np.zeros((len(y), len(x)), bool)
    for part in outline(sprite):
        inside |= _in_disc(part, x, y) if isinstance(part, Disc) else _in_polygon(part, x, y)
    share = inside.reshape(bottom - top, _SAMPLES, right - left, _SAMPLES).sum((1, 3), dtype=np.int32)[:, :, None]
    below = pixels[top:bottom, left:right]
    below += ((np.array(sprite.colour, np.int32) - below) * share + _SAMPLES**2 // 2) // _SAMPLES**2


@functools.lru_cache(maxsize=4)
def _samples(size: int) -> np.ndarray:
    """The coordinates along an axis at which pixels are looked at: (size * _SAMPLES,) of int32."""
    return ((2 * np.arange(size * _SAMPLES, dtype=np.int64) + 1) * SIDE // (2 * _SAMPLES * size)).astype(np.int32)


def _in_disc(disc: Disc, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """For x of (W,) and y of (H, 1) whether the points are inside: (H, W)."""
    return (x - disc.x) ** 2 <= disc.radius**2 - (y - disc.y) ** 2


def _in_polygon(polygon: Polygon, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """As `_in_disc`."""
    inside = np.ones((len(y), len(x)), bool)
    for (x1, y1), (x2, y2) in zip(polygon, (*polygon[1:], polygon[0]), strict=True):
        inside &= (x2 - x1) * (y - y1) >= (y2 - y1) * (x - x1)  # a side per axis: only >= has both axes to go over
    return inside


def _interpolate(texture: Texture, size: int) -> np.ndarray:
    """The texture as (size, size, 3) of int32."""
    at = (2 * np.arange(size, dtype=np.int64) + 1) * ((len(texture.lattice) - 1) << 8) // (2 * size)
    cell, weight = at >> 8, (at & 255).astype(np.int32)  # of each pixel on the lattice
    lattice = texture.lattice.astype(np.int32)
    rows = lattice[cell] * (256 - weight[:, None]) + lattice[cell + 1] * weight[:, None]
    mixture = (rows[:, cell] * (256 - weight) + rows[:, cell + 1] * weight) >> 16
    first, second = np.array(texture.colours, np.int32)
    return first + ((second - first) * mixture[:, :, None] >> 8)
