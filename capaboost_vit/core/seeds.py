"""Randomness as a function of a key, not of what was drawn before."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def words(purpose: str, *key: int) -> tuple[int, int, int]:
    """Three numbers of 32 bits from the SHA-256 of the key: `purpose:1:2:3` for (1, 2, 3)."""
    digest = hashlib.sha256(":".join([purpose, *map(str, key)]).encode()).digest()
    return struct.unpack_from("<3I", digest)


@contextmanager
def seeded(purpose: str, *key: int, devices: bool = False) -> Iterator[None]:
    """Seeds python, numpy and torch's CPU generator by the key for the block, and puts their states back after it.

    Args:
        purpose: keeps keys of the same numbers apart.
        key: such as (seed, epoch, index).
        devices: seed torch's generators on all devices too; those are not put back.
    """
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    first, second, third = words(purpose, *key)
    random.seed(first)
    np.random.seed(second)  # noqa: NPY002
    if devices:
        torch.manual_seed(third)
    else:
        torch.default_generator.manual_seed(third)
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
