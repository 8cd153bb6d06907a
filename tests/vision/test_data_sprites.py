"""Generated shapes: the same pixels wherever they are drawn, and answers that the pixels themselves give."""

from __future__ import annotations

import hashlib
import math
import pickle
import re
from collections import Counter

import numpy as np
import pytest

from capaboost_vit.vision.data import open_data
from capaboost_vit.vision.data.raster import SHAPES, SIDE, TURN, Sprite, Texture, draw
from capaboost_vit.vision.data.sprites import TASKS, scene

BLACK, WHITE = (0, 0, 0), (255, 255, 255)
NOTHING = Texture(np.zeros((3, 3), np.uint32), (BLACK, BLACK))
COUNT = 48  # images of a task that are looked at


def answers(task):
    """Scene and label of some test images."""
    split = open_data(f"sprites:{task}").split("test")
    return [(scene(task, split.names[i]), split.labels[i]) for i in range(COUNT)]


def mask(sprites, size=256):
    """How much of each pixel the sprites cover, from 0 to 1, one by one."""
    return [draw(NOTHING, (sprite._replace(colour=WHITE),), size)[:, :, 0] / 255 for sprite in sprites]


@pytest.mark.parametrize("task", TASKS)
def test_splits_are_vtabs_and_balanced_and_none_of_their_images_is_twice_there(task):
    data = open_data(f"sprites:{task}")
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 800, "val": 200, "test": 5000}
    for split in data.splits.values():
        assert set(Counter(split.labels).values()) == {len(split) // len(data.classes)}
        assert len(split) % len(data.classes) == 0
    both = data.split("train+val")
    assert both.names[:1] + both.names[-1:] == ("train 0", "val 199")
    contents = [split.content(i) for split in data.splits.values() for i in range(100)]
    assert len(set(contents)) == 300


# golden: hashlib.sha256(b"".join(data.split("test").content(i) for i in range(16))).hexdigest()[:16]
GOLDEN = {
    "sprites:location": "9a6994bd0bf86f5a",
    "sprites:orientation": "40b1658504bcb3a6",
    "sprites:count": "199e472c138f9f87",
    "sprites:distance": "fe53a1ae32e1134d",
    "sprites:count:33": "169bf9153aafac6c",
}


@pytest.mark.parametrize("spec", GOLDEN)
def test_pixels_are_the_same_everywhere_and_survive_pickling(spec):
    split = open_data(spec).split("test")
    contents = [split.content(i) for i in range(16)]
    assert hashlib.sha256(b"".join(contents)).hexdigest()[:16] == GOLDEN[spec]
    again = pickle.loads(pickle.dumps(split))
    assert [again.content(i) for i in reversed(range(16))] == contents[::-1]


def test_another_size_is_the_same_scene_looked_at_more_closely():
    small, large = (open_data(f"sprites:distance{size}").split("test").image(5) for size in ("", ":128"))
    assert (small.size, large.size) == ((64, 64), (128, 128))
    difference = np.asarray(small, float) - np.asarray(large.reduce(2), float)
    assert np.abs(difference).mean() < 1.5


def test_the_centre_is_in_the_cell_that_is_its_class():
    for image, label in answers("location"):
        (sprite,) = image.sprites
        wide = sprite._replace(x=sprite.x // 2 + SIDE // 4, y=sprite.y // 2 + SIDE // 4, shape="disc")  # not cut
        (covered,) = mask([wide])
        y, x = (np.average(2 * (np.indices(covered.shape)[axis] + 0.5) - 128, weights=covered) for axis in (0, 1))
        assert open_data("sprites:location").classes[label] == f"row {y * 5 // 256:.0f}, column {x * 5 // 256:.0f}"


def test_turned_back_by_its_class_a_shape_points_up():
    angles = [TURN * (2 * label + 1) // 20 for label in range(10)]
    for image, label in answers("orientation"):
        (sprite,) = image.sprites
        still = sprite._replace(x=SIDE // 2, y=SIDE // 2)
        (turned,), upright = mask([still], 64), mask([still._replace(angle=angle) for angle in angles], 64)
        assert np.argmax([(turned * other).sum() for other in upright]) == label


def test_as_many_shapes_as_the_class_says_and_none_touches_another():
    for image, label in answers("count"):
        covered = mask(image.sprites, 128)
        assert len(covered) == label + 1
        assert all(one.any() for one in covered)
        assert sum(covered).max() <= 1


def test_the_largest_shape_is_the_nearest_and_as_far_as_its_class():
    classes = open_data("sprites:distance").classes
    for image, label in answers("distance"):
        metres = [SIDE / sprite.radius for sprite in image.sprites]
        assert 2 <= len(metres) <= 5
        assert metres == sorted(metres, reverse=True)
        least, most = map(float, re.findall(r"[0-9.]+", classes[label]))
        assert least <= metres[-1] < most
        assert metres[-2] - metres[-1] > 0.49


def test_sprites_stand_out_and_are_wholly_inside():
    for task in TASKS:
        for image, _ in answers(task):
            for sprite in image.sprites:
                for colour in image.texture.colours:
                    assert sum(abs(a - b) for a, b in zip(sprite.colour, colour, strict=True)) >= 200
            if task != "location":
                assert all(s.radius <= at <= SIDE - s.radius for s in image.sprites for at in (s.x, s.y))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_stays_in_its_circle_however_it_is_turned(shape):
    far = np.hypot(*(np.indices((128, 128)) - 63.5)) > 41.5
    areas = []
    for angle in range(0, TURN, 8):
        (covered,) = mask([Sprite(shape, SIDE // 2, SIDE // 2, 40 * SIDE // 128, angle, WHITE)], size=128)
        assert not covered[far].any()
        areas.append(covered.sum())
    assert np.ptp(areas) < 0.01 * np.mean(areas)


def test_a_disc_has_the_area_of_one():
    (covered,) = mask([Sprite("disc", SIDE // 2 + 77, SIDE // 2 - 99, SIDE // 4, 5, WHITE)])
    assert covered.sum() == pytest.approx(math.pi * 56**2, rel=1e-3)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("sprites", "'sprites': write sprites:TASK or sprites:TASK:SIZE; the tasks are location, orientation, count,"),
        ("sprites:", "write sprites:TASK or sprites:TASK:SIZE"),
        ("sprites:count:large", "write sprites:TASK or sprites:TASK:SIZE"),
        ("sprites:count:64:3", "write sprites:TASK or sprites:TASK:SIZE"),
        ("sprites:cuont", "'sprites:cuont': no task 'cuont' (did you mean 'count'?); the tasks are location,"),
        ("sprites:count:8", "'sprites:count:8': the size must be 16 to 1024 pixels, got 8"),
        ("sprites:count:1025", "the size must be 16 to 1024 pixels, got 1025"),
    ],
)
def test_a_malformed_spec_is_refused_in_one_line(spec, text):
    with pytest.raises(ValueError, match=re.escape(text)):
        open_data(spec)
