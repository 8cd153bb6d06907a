"""Loaders: the examples of a split as updates of the optimizer, in an order of their own, or once for an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import KW_ONLY, dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from torch import Tensor

T = TypeVar("T")

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
    count: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: np.ndarray | None = None,
    balanced: np.ndarray | None = None,
) -> list[np.ndarray]:
    """The examples of each update of an epoch: every one of `count` once, in an order that depends on (seed, epoch).

    With `balanced`, the labels, those of `balanced_draw` instead.

    With `lengths`, of each example, those of about the same length come into the same update: within each 50 updates
    of the permutation the examples are sorted by length, and the updates that this makes are shuffled. The last update
    of an epoch, where it is smaller, stays the last one and as it was drawn.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(count) if balanced is None else balanced_draw(balanced, generator)
    if lengths is not None:
        full = count - count % batch_size
        for start in range(0, full, _CHUNK * batch_size):
            chunk = order[start : min(start + _CHUNK * batch_size, full)]
            by_length = chunk[np.argsort(lengths[chunk], kind="stable")]
            # a chunk is a view: this shuffles the permutation itself
            chunk[:] = generator.permutation(by_length.reshape(-1, batch_size)).reshape(-1)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def balanced_draw(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many examples as there are labels, each class equally often, shuffled.

    Of n examples with K classes each class gives n // K, and n % K classes drawn anew one more. A class that has fewer
    is gone through again and again, each time in another order; i + k n stands for the k-th repetition of example i.
    """
    count = len(labels)
    _, starts = np.unique(np.sort(labels), return_index=True)
    classes = np.split(np.argsort(labels, kind="stable"), starts[1:])
    shares = np.full(len(classes), count // len(classes))
    shares[generator.permutation(len(classes))[: count % len(classes)]] += 1
    drawn = []
    for members, share in zip(classes, shares, strict=True):
        rounds = [generator.permutation(members) + k * count for k in range(math.ceil(share / len(members)))]
        drawn.append(np.concatenate(rounds)[:share])
    return generator.permutation(np.concatenate(drawn))


def share_of(update: np.ndarray, *, accumulation: int, rank: int, world_size: int) -> list[Part]:
    """The share of one process in an update, in at most `accumulation` batches of (index, whether it counts).

    It is every world_size-th example, from `rank` on. All processes have as many batches, as they wait for each other:
    where there is no example left for one, the first example stands in and does not count.
    """
    most = len(update[::world_size])
    parts = np.array_split(update[rank::world_size], min(accumulation, most))
    return [[(int(index), True) for index in part] or [(int(update[0]), False)] for part in parts]


class Examples(Protocol):
    """The examples of one split, whatever they are."""

    def __len__(self) -> int: ...

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Any]:
        """A batch (inputs, targets) for each part. What is random in an example is a function of (epoch, index).

        An index i + k n, with n examples, is the k-th repetition of i: the same example, at random in another way.
        """

    def read_once(self) -> None:
        """Nothing need be kept for later epochs: no example will be asked for a second time."""

    def close(self) -> None:
        """Ends the processes that read them, if any."""


@dataclass(eq=False)
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
        balanced: labels of the examples, to draw each class equally often; None: each example once.
    """

    examples: Examples
    _: KW_ONLY
    batch_size: int
    seed: int
    accumulation: int = 1
    rank: int = 0
    world_size: int = 1
    lengths: np.ndarray | None = None
    balanced: np.ndarray | None = None

    def __len__(self) -> int:
        """Updates of an epoch."""
        return math.ceil(len(self.examples) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """The updates of one epoch from the `start`-th on; examples that cannot be read raise ValueError."""
        count = len(self.examples)
        order = epoch_order(
            count,
            batch_size=self.batch_size,
            seed=self.seed,
            epoch=epoch,
            lengths=self.lengths,
            balanced=self.balanced,
        )
        share = {"accumulation": self.accumulation, "rank": self.rank, "world_size": self.world_size}
        updates = [(len(update), share_of(update, **share)) for update in order[start:]]
        # one pass over all parts, so that what reads them can be ahead of the updates
        batches = self.examples.batches([part for _, parts in updates for part in parts], epoch=epoch)
        for size, parts in updates:
            indices = [index % count for part in parts for index, counts in part if counts]
            yield Update([next(batches) for _ in parts], size, indices)

    def close(self) -> None:
        """Ends the processes that read the examples."""
        self.examples.close()


class EvalLoader:
    """Batches of one split for an evaluation. Each example comes once in one of the processes.

    All processes have as many batches, as they wait for each other: one that has no more gets an example that does not
    count.

    Args:
        batch_size: examples of a batch in this process.
        rank, world_size: this process takes every world_size-th example of the order, from `rank` on.
        order: of the examples; None is that of the split.
        names: of the examples, by their places in the split; None where people do not look for them.

    Attributes:
        source: the examples of the split, whatever stands in front of them in `examples`.
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
        self.examples, self.source, self.names = examples, examples, names
        places = list(range(len(examples)) if order is None else order)
        self.indices = places[rank::world_size]
        stand_in = [(self.indices[0] if self.indices else 0, False)]  # of its own, which may be in memory alone
        starts = range(0, len(places[::world_size]), batch_size)
        self.parts = [[(i, True) for i in self.indices[start : start + batch_size]] or stand_in for start in starts]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return self.examples.batches(self.parts)

    def close(self) -> None:
        """Ends the processes that read the examples."""
        self.examples.close()


class Prefetcher(Iterator[T]):
    """Prefetching iterator: the same items in the same order, of which the next can be fetched before it is asked for.

    An exception of fetching, the end among them, is raised when the item is asked for: what comes before it is worked
    on to its end. No thread is started: `fetch` does the work.
    """

    def __init__(self, items: Iterable[T]) -> None:
        self.items = iter(items)
        self.fetched: Future[T] | None = None

    def fetch(self) -> None:
        """Gets the next item, unless that was done."""
        if self.fetched is None:
            self.fetched = Future()
            try:
                self.fetched.set_result(next(self.items))
            except Exception as error:
                self.fetched.set_exception(error)

    def __next__(self) -> T:
        self.fetch()
        fetched, self.fetched = self.fetched, None
        assert fetched is not None
        return fetched.result()
