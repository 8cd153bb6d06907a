"""Loaders: the examples of a split in batches, as updates of the optimizer or once each for an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from .order import Part, Update, epoch_order, share_of


class Examples(Protocol):
    """The examples of one split, whatever they are."""

    def __len__(self) -> int: ...

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Any]:
        """A batch (inputs, targets) for each part. What is random in an example is a function of (epoch, index)."""

    def close(self) -> None:
        """Ends the processes that read them, if any."""


class TrainLoader:
    """The training examples of one split as updates of the optimizer.

    The order of an epoch depends on (seed, epoch) alone: not on where the epoch is begun, on what was drawn before, or
    on the global random state. The examples of an update are dealt out to the processes, and each share is cut into
    `accumulation` batches.

    Args:
        batch_size: examples of an update in all processes; the last one of an epoch may be smaller.
        seed: keys the order.
        accumulation: batches in which the share of a process is computed.
        rank, world_size: this process, and how many there are.
        lengths: of each example, to bring those of about the same length into the same update; see `epoch_order`.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        seed: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        lengths: np.ndarray | None = None,
    ) -> None:
        self.examples, self.batch_size, self.seed, self.lengths = examples, batch_size, seed, lengths
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size

    def __len__(self) -> int:
        """Updates of an epoch."""
        return math.ceil(len(self.examples) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """The updates of one epoch from the `start`-th on; examples that cannot be read raise ValueError."""
        order = epoch_order(
            len(self.examples), batch_size=self.batch_size, seed=self.seed, epoch=epoch, lengths=self.lengths
        )
        share = {"accumulation": self.accumulation, "rank": self.rank, "world_size": self.world_size}
        updates = [(len(update), share_of(update, **share)) for update in order[start:]]
        # one pass over all parts, so that what reads them can be ahead of the updates
        batches = self.examples.batches([part for _, parts in updates for part in parts], epoch=epoch)
        for size, parts in updates:
            yield Update([next(batches) for _ in parts], size, [i for part in parts for i, counts in part if counts])

    def close(self) -> None:
        """Ends the processes that read the examples."""
        self.examples.close()


class EvalLoader:
    """Batches of one split for an evaluation. Each example comes once in one of the processes.

    A process that would have none gets one that does not count, as processes wait for each other.

    Args:
        batch_size: examples of a batch in this process.
        rank, world_size: this process takes every world_size-th example of the order, from `rank` on.
        order: of the examples; None is that of the split.
        names: of the examples, by their places in the split; None where people do not look for them.

    Attributes:
        indices: places in the split of this process's examples, in the order in which they are given out.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        order: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:
        self.examples, self.names = examples, names
        self.indices = list(range(len(examples)) if order is None else order)[rank::world_size]
        share = [(index, True) for index in self.indices] or [(0, False)] * bool(len(examples))
        self.parts = [share[i : i + batch_size] for i in range(0, len(share), batch_size)]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return self.examples.batches(self.parts)

    def close(self) -> None:
        """Ends the processes that read the examples."""
        self.examples.close()
