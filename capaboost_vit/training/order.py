"""The order of training examples, a function of (seed, epoch), and how it is dealt out to processes and batches."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

Batch = tuple[Any, Tensor]  # inputs, targets (B, ...)

Part = list[tuple[int, bool]]  # a batch: examples by index, and whether each counts or only stands in

_CHUNK = 50  # updates among which examples of like length are brought together


class Update(NamedTuple):
    """Accumulated batches: this process's shard of the examples of one step of the optimizer.

    batches: computed one after the other. Padding labels (-1 for a class) are those of an example that stands in where
        there are fewer examples than processes.
    size: examples of the step in all processes.
    indices: of this process's examples in the split.
    """

    batches: list[Batch]
    size: int
    indices: list[int]


def epoch_order(
    count: int, *, batch_size: int, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> list[np.ndarray]:
    """The examples of each update of an epoch: every one of `count` once, in an order that depends on (seed, epoch).

    With `lengths`, of each example, those of about the same length come into the same update: within each 50 updates
    of the permutation the examples are sorted by length, and the updates that this makes are shuffled. The last update
    of an epoch, where it is smaller, stays the last one and as it was drawn.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(count)
    if lengths is not None:
        full = count - count % batch_size
        for start in range(0, full, _CHUNK * batch_size):
            chunk = order[start : min(start + _CHUNK * batch_size, full)]
            by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
            # a chunk is a view: this shuffles the permutation itself
            chunk[:] = generator.permutation(by_length.reshape(-1, batch_size)).reshape(-1)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def share_of(update: np.ndarray, *, accumulation: int, rank: int, world_size: int) -> list[Part]:
    """The share of one process in an update, in at most `accumulation` batches of (index, whether it counts).

    It is every world_size-th example, from `rank` on; never nothing, as processes wait for each other: where there is
    no example left, the first one stands in and does not count.
    """
    share = update[rank::world_size].tolist()
    if not share:
        return [[(int(update[0]), False)]]
    parts = np.array_split(share, min(accumulation, len(share)))
    return [[(int(index), True) for index in part] for part in parts]
