"""Random numbers are a function of the key, and whoever draws outside notices nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from capaboost_vit.core.seeds import seeded, words


def draw():
    return random.random(), np.random.random(), torch.rand(2).tolist()  # noqa: NPY002


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("devices", [False, True])
def test_the_key_alone_decides(devices):
    found = []
    for _ in range(2):
        draw()
        with seeded("test", 3, 1, 4, devices=devices):
            found.append(draw())
    assert found[0] == found[1]


def test_every_part_of_the_key_counts():
    keys = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**40, 0, 0), (0, 2**33, 1), (0, 0, 0, 1), (0, 1, 0, 1)]
    found = set()
    for key in keys:
        with seeded("test", *key):
            numbers = draw()
        found |= {numbers[0], numbers[1], numbers[2][0]}
    assert len(found) == 3 * len(keys)  # and the three generators differ


def test_the_purpose_keeps_equal_numbers_apart_and_parts_are_not_run_together():
    assert len({words("image", 1, 23), words("update", 1, 23), words("image", 12, 3), words("image", 123)}) == 4


def test_the_numbers_are_those_that_were_released():
    assert words("update", 0, 0, 0) == (193671689, 2584261106, 424640371)


@pytest.mark.parametrize("devices", [False, True])
def test_the_states_come_back_even_if_the_block_fails(devices):
    def fail():
        with seeded("test", 1, devices=devices):
            draw()
            raise KeyError

    before = states()
    with pytest.raises(KeyError):
        fail()
    assert states() == before


def test_blocks_can_be_nested():
    with seeded("test", 1):
        expected = draw(), draw()
    with seeded("test", 1):
        first = draw()
        with seeded("test", 2):
            draw()
        assert (first, draw()) == expected


def test_python_and_numpy_draw_the_same_on_every_machine():
    with seeded("test", 0, 1, 2):
        assert (random.getrandbits(32), int(np.random.randint(2**31))) == (1453247167, 601330949)  # noqa: NPY002
