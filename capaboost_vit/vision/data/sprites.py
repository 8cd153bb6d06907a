"""Coloured shapes with known answers, in the spirit of VTAB's structured tasks; generated, so that they need no files.

Every image has a texture, clutter on it, and sprites on top. All numbers are drawn evenly, lengths are in pixels of an
image of 64 px and drawn in 256ths of one (those of `raster`), angles in 256ths of a turn. `a to b` leaves b out.

- texture: two colours, the first any, each channel of the second at most 64 away from the first's; they are mixed by
  random values on a lattice of 3, 5, 9 or 17 points a side;
- clutter: 0 to 12 sprites of any colour, with a radius of 1 to 2.5;
- a sprite: one of the eight shapes of `raster`, turned by any angle, wholly inside the image, in a colour whose
  channels differ from those of each colour of the texture by 200 or more in sum. Its radius is that of the circle
  around its shape.

The tasks, with a class for

- location: each cell of a grid of 5 x 5 (25). One sprite, radius 6 to 10; its centre is anywhere in the cell, so that
  it may be cut at the border;
- orientation: each tenth of a turn, clockwise (10). One arrow, drop, tee or heart, radius 16 to 24; its angle is the
  middle of the tenth, give or take 6 / 256 of a turn;
- count: 1 to 8 sprites (8). Radius 3.5 to 6.5; the circles around them do not overlap;
- distance: 4 to 5.2, to 6.8, to 8.8, to 11.4, to 14.8 m to the nearest of 2 to 5 sprites (5). Radius 64 divided by the
  distance in metres, as for a camera and things of one size; distances are in centimetres, those of the others from
  half a metre behind the nearest to 20 m, and the nearer covers the farther.

Image i of a split is of class i % classes, and all that is drawn is a function of task, split and i: the size only says
at how many points one looks at it, 4 x 4 of them per pixel.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from ...core.seeds import words
from ...io.options import suggest
from .image_data import ImageData
from .raster import SHAPES, SIDE, TURN, Colour, Sprite, Texture, draw
from .split import Split

_SPLITS = {"train": 800, "val": 200, "test": 5000}
_DEFAULT_SIZE, _SMALLEST, _LARGEST = 64, 16, 1024
_PIXEL = SIDE // 64
_GRID, _ANGLES, _MOST = 5, 10, 8
_BOUNDS = (400, 520, 680, 880, 1140, 1480)  # of the classes of distance, in centimetres
_POINTED = ("arrow", "drop", "tee", "heart")  # those that look the same after a whole turn alone

Item = TypeVar("Item")


class Scene(NamedTuple):
    """What is in an image, from the back to the front."""

    texture: Texture
    clutter: tuple[Sprite, ...]
    sprites: tuple[Sprite, ...]


class Task(NamedTuple):
    """The names of the classes, and what draws the sprites of a label."""

    classes: tuple[str, ...]
    sprites: Callable[[Draws, Texture, int], tuple[Sprite, ...]]


class Draws:
    """Whole numbers that depend on a key alone: RandomState's stream is frozen, with every version of numpy."""

    def __init__(self, key: str) -> None:
        self._state = np.random.RandomState(words(key)[0])
        self._numbers = self._drawn()

    def _drawn(self) -> Iterator[int]:
        while True:  # many at once, as a call takes as long as a hundred numbers
            yield from self.array(128).tolist()

    def array(self, *shape: int) -> np.ndarray:
        """Numbers of 32 bits."""
        return self._state.randint(0, 1 << 32, shape, dtype=np.uint32)

    def number(self, start: int, stop: int) -> int:
        """From start to stop - 1."""
        return start + next(self._numbers) % (stop - start)

    def choice(self, items: Sequence[Item]) -> Item:
        return items[self.number(0, len(items))]

    def colour(self) -> Colour:
        return self.number(0, 256), self.number(0, 256), self.number(0, 256)

    def texture(self) -> Texture:
        points = self.choice((3, 5, 9, 17))
        first = self.colour()
        red, green, blue = (min(max(value + self.number(-64, 65), 0), 255) for value in first)
        return Texture(self.array(points, points) & 255, (first, (red, green, blue)))

    def contrast(self, texture: Texture) -> Colour:
        """A colour that is far from both of a texture."""
        while True:
            colour = self.colour()
            if all(sum(abs(a - b) for a, b in zip(colour, other, strict=True)) >= 200 for other in texture.colours):
                return colour

    def sprite(self, radius: int, *, colour: Colour, shapes: Sequence[str] = tuple(SHAPES)) -> Sprite:
        """One wholly inside the image."""
        x, y = (self.number(radius, SIDE - radius) for _ in range(2))
        return Sprite(self.choice(shapes), x, y, radius, self.number(0, TURN), colour)


def _at_location(draws: Draws, texture: Texture, label: int) -> tuple[Sprite, ...]:
    sprite = draws.sprite(draws.number(6 * _PIXEL, 10 * _PIXEL), colour=draws.contrast(texture))
    row, column = divmod(label, _GRID)
    x, y = (draws.number(cell * SIDE // _GRID, (cell + 1) * SIDE // _GRID) for cell in (column, row))
    return (sprite._replace(x=x, y=y),)


def _at_angle(draws: Draws, texture: Texture, label: int) -> tuple[Sprite, ...]:
    radius, colour = draws.number(16 * _PIXEL, 24 * _PIXEL), draws.contrast(texture)
    middle = (2 * label + 1) * TURN // (2 * _ANGLES)
    return (draws.sprite(radius, colour=colour, shapes=_POINTED)._replace(angle=middle + draws.number(-6, 7)),)


def _so_many(draws: Draws, texture: Texture, label: int) -> tuple[Sprite, ...]:
    sprites: list[Sprite] = []
    while len(sprites) <= label:  # they would fill a quarter of the image at most: there is always room for one more
        new = draws.sprite(draws.number(7 * _PIXEL // 2, 13 * _PIXEL // 2), colour=draws.contrast(texture))
        if all((new.x - old.x) ** 2 + (new.y - old.y) ** 2 > (new.radius + old.radius) ** 2 for old in sprites):
            sprites.append(new)
    return tuple(sprites)


def _at_distance(draws: Draws, texture: Texture, label: int) -> tuple[Sprite, ...]:
    nearest = draws.number(_BOUNDS[label], _BOUNDS[label + 1])
    others = sorted((draws.number(nearest + 50, 2000) for _ in range(draws.number(1, 5))), reverse=True)
    radii = (100 * SIDE // centimetres for centimetres in (*others, nearest))
    return tuple(draws.sprite(radius, colour=draws.contrast(texture)) for radius in radii)


TASKS = {
    "location": Task(tuple(f"row {i // _GRID}, column {i % _GRID}" for i in range(_GRID**2)), _at_location),
    "orientation": Task(
        tuple(f"{360 * i // _ANGLES} to {360 * (i + 1) // _ANGLES} degrees" for i in range(_ANGLES)), _at_angle
    ),
    "count": Task(tuple(map(str, range(1, _MOST + 1))), _so_many),
    "distance": Task(tuple(f"{a / 100} to {b / 100} m" for a, b in pairwise(_BOUNDS)), _at_distance),
}


def read_sprites(spec: str) -> ImageData:
    """`sprites:TASK`, or `sprites:TASK:SIZE` for images of other than 64 pixels a side: 800 for train, 200 for val,
    5,000 for test, each with as many of every class. They are drawn when they are read: nothing is kept in memory.

    Raises:
        ValueError: malformed, or no such task or size.
    """
    parts = re.fullmatch(r"sprites:([^:]+)(?::(\d{1,9}))?", spec)
    if parts is None:
        raise ValueError(f"{spec!r}: write sprites:TASK or sprites:TASK:SIZE; the tasks are {', '.join(TASKS)}")
    name, size = parts[1], int(parts[2] or _DEFAULT_SIZE)
    if name not in TASKS:
        raise ValueError(f"{spec!r}: no task {name!r}{suggest(name, TASKS)}; the tasks are {', '.join(TASKS)}")
    if not _SMALLEST <= size <= _LARGEST:
        raise ValueError(f"{spec!r}: the size must be {_SMALLEST} to {_LARGEST} pixels, got {size}")
    classes = TASKS[name].classes
    images = partial(_picture, name, size)  # one for all splits, so that train+val keeps the names of its images
    splits = {
        split: Split(
            tuple(f"{split} {i}" for i in range(images_of_split)),
            tuple(i % len(classes) for i in range(images_of_split)),
            images,
        )
        for split, images_of_split in _SPLITS.items()
    }
    return ImageData(spec, classes, splits)


def scene(task: str, name: str) -> Scene:
    """What is in the image `train 17` of a task."""
    draws = Draws(f"sprites {task} {name}")
    texture = draws.texture()
    clutter = tuple(
        draws.sprite(draws.number(_PIXEL, 5 * _PIXEL // 2), colour=draws.colour()) for _ in range(draws.number(0, 13))
    )
    label = int(name.split()[1]) % len(TASKS[task].classes)
    return Scene(texture, clutter, TASKS[task].sprites(draws, texture, label))


def _picture(task: str, size: int, name: str) -> Image.Image:
    """Opens `train 17`."""
    texture, clutter, sprites = scene(task, name)
    return Image.fromarray(draw(texture, clutter + sprites, size))
