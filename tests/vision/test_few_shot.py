"""Few-shot: so many images of each class, a function of seed and names."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

import pytest

from capaboost_vit.vision.data import Split, few_shot

CLASSES = ("cat", "dog", "bird")
COUNTS = (20, 5, 9)


def split_of(counts=COUNTS):
    pairs = [(f"{CLASSES[label]}/{i}.png", label) for label, count in enumerate(counts) for i in range(count)]
    return Split(tuple(name for name, _ in pairs), tuple(label for _, label in pairs), str)


def draw(split, shots, seed=0):
    return few_shot(split, shots, seed=seed, classes=CLASSES)


@pytest.mark.parametrize("shots", [1, 2, 4, 5])
def test_every_class_has_so_many_images_and_its_own_labels(shots):
    drawn = draw(split_of(), shots)
    assert Counter(drawn.labels) == dict.fromkeys(range(3), shots)
    assert len(set(drawn.names)) == 3 * shots
    assert all(name.startswith(CLASSES[label]) for name, label in zip(drawn.names, drawn.labels, strict=True))
    assert list(drawn.names) == [name for name in split_of().names if name in drawn.names]  # the order of the split


def test_the_draw_depends_on_seed_and_names_alone():
    split = split_of()
    order = random.Random(5).sample(range(len(split)), len(split))
    random.seed(123)
    assert set(draw(split.only(order), 2).names) == set(draw(split, 2).names)
    draws = {frozenset(draw(split, 2, seed).names) for seed in range(20)}
    assert len(draws) > 15
    without_dogs = few_shot(split_of((20, 0, 9)).only(range(20)), 2, seed=0, classes=("cat",))
    assert set(without_dogs.names) < set(draw(split, 2).names)  # other classes change nothing


def test_fewer_shots_are_a_part_of_more():
    drawn = [set(draw(split_of(), shots, seed=3).names) for shots in range(1, 6)]
    assert all(few < more for few, more in pairwise(drawn))


def test_over_many_seeds_every_image_is_drawn_about_as_often():
    counts = Counter(name for seed in range(2000) for name in draw(split_of(), 1, seed).names)
    cats = [counts[f"cat/{i}.png"] for i in range(20)]
    assert sum(cats) == 2000
    assert sum((count - 100) ** 2 / 100 for count in cats) < 43.8  # chi-squared, 19 degrees of freedom, p = 0.001


def test_a_name_that_stands_twice_is_drawn_at_its_first_place_first():
    split = Split(("a.png", "a.png"), (0, 0), str)
    assert few_shot(split, 2, seed=0, classes=("cat",)).names == ("a.png", "a.png")


@pytest.mark.parametrize(
    ("counts", "shots", "error"),
    [
        ((20, 5, 9), 6, r"^--shots 6: class 'dog' has 5 training images$"),
        ((20, 5, 9), 10, r"^--shots 10: class 'dog' has 5 training images, and 1 more have too few$"),
        ((0, 5, 9), 1, r"^--shots 1: class 'cat' has 0 training images$"),
    ],
)
def test_a_class_with_fewer_images_is_named(counts, shots, error):
    with pytest.raises(ValueError, match=error):
        draw(split_of(counts), shots)
