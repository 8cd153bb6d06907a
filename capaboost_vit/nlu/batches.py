"""From token ids to batches: filled up to their longest example, in an order that is a function of (seed, epoch)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from ..training.order import Update, epoch_order, share_of
from .masking import NOT_ASKED, Masking
from .tokens import Encoded

Batch = tuple[dict[str, Tensor], Tensor]  # input_ids, attention_mask[, token_type_ids] (B, N) int64; targets
# targets of an example that stands in where a process has none, and does not count: -1 for classes and spans, -100 for
# masked tokens, NaN for scores, of which -1 may be one

_MULTIPLE = 8  # of tokens, as GPUs like it


class TextBatches:
    """Batches of one split for evaluation, those of the longest examples first, so that little is filled up.

    Each example comes once in one of the processes; a process that would have none gets one that does not count.

    Args:
        batch_size: examples of a batch in this process.
        rank, world_size: this process takes every world_size-th example by length, from rank on.
        masking: for masked tokens, drawn as in epoch 0.

    Attributes:
        indices: places in the split of this process's examples, in the order in which they are given out.

    Raises:
        ValueError: no targets, and no masking that makes them.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        masking: Masking | None = None,
    ) -> None:
        _check_targets(encoded, masking)
        self.encoded, self.batch_size, self.masking = encoded, batch_size, masking
        self.indices: list[int] = np.argsort(-encoded.lengths, kind="stable")[rank::world_size].tolist()
        own = [(index, True) for index in self.indices] or [(0, False)] * bool(len(encoded))
        self.parts = [own[i : i + batch_size] for i in range(0, len(own), batch_size)]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Batch]:
        return (_batch(self.encoded, part, epoch=0, masking=self.masking) for part in self.parts)

    def close(self) -> None:
        """Nothing is held: no processes, no files."""


class TextUpdates:
    """The training examples of one split as updates of the optimizer.

    The order of an epoch depends on (seed, epoch) alone, and what is masked of an example on (seed, epoch, index): not
    on where the epoch is begun, on what was drawn before, or on the global random state. The examples of an update are
    dealt out to the processes, and each share is cut into `accumulation` batches.

    Args:
        batch_size: examples of an update in all processes; the last one of an epoch may be smaller.
        seed: keys the order.
        accumulation: batches in which the share of a process is computed.
        rank, world_size: this process, and how many there are.
        group_by_length: examples of about the same length come into the same update, see `core.order.epoch_order`.
        masking: for masked tokens, drawn anew in each epoch.

    Raises:
        ValueError: no targets, and no masking that makes them.
    """

    def __init__(
        self,
        encoded: Encoded,
        *,
        batch_size: int,
        seed: int,
        accumulation: int = 1,
        rank: int = 0,
        world_size: int = 1,
        group_by_length: bool = True,
        masking: Masking | None = None,
    ) -> None:
        _check_targets(encoded, masking)
        self.encoded, self.batch_size, self.seed, self.masking = encoded, batch_size, seed, masking
        self.accumulation, self.rank, self.world_size = accumulation, rank, world_size
        self.lengths = encoded.lengths if group_by_length else None

    def __len__(self) -> int:
        return math.ceil(len(self.encoded) / self.batch_size)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """The updates of one epoch from the `start`-th on; their batches are `Batch`."""
        order = epoch_order(
            len(self.encoded), batch_size=self.batch_size, seed=self.seed, epoch=epoch, lengths=self.lengths
        )
        for update in order[start:]:
            parts = share_of(update, accumulation=self.accumulation, rank=self.rank, world_size=self.world_size)
            batches = [_batch(self.encoded, part, epoch=epoch, masking=self.masking) for part in parts]
            yield Update(batches, len(update), [index for part in parts for index, counts in part if counts])

    def close(self) -> None:
        """Nothing is held: no processes, no files."""


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    inputs, targets = batch
    there = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
    return there, targets.to(device, non_blocking=True)


def _check_targets(encoded: Encoded, masking: Masking | None) -> None:
    if encoded.targets is None and masking is None:
        raise ValueError("these examples have no labels: give a masking, which asks for masked tokens")


def _batch(encoded: Encoded, part: Sequence[tuple[int, bool]], *, epoch: int, masking: Masking | None) -> Batch:
    """One batch of (index, whether it counts)."""
    rows = [encoded.ids[index] for index, _ in part]
    longest = max(map(len, rows))
    width = max(longest, min(_MULTIPLE * math.ceil(longest / _MULTIPLE), encoded.max_length or 2**31))
    if masking is None:
        assert encoded.targets is not None
        targets = encoded.targets[[index for index, _ in part]]
    else:
        drawn = [masking(row, epoch=epoch, index=index) for row, (index, _) in zip(rows, part, strict=True)]
        rows = [inputs for inputs, _ in drawn]
        targets = _filled([asked for _, asked in drawn], width, NOT_ASKED)
    for row, (_, counts) in enumerate(part):
        if not counts:
            targets[row] = NOT_ASKED if masking else math.nan if targets.is_floating_point() else -1
    inputs = {
        "input_ids": _filled(rows, width, encoded.pad_id),
        "attention_mask": _filled([np.ones_like(row) for row in rows], width, 0),
    }
    if encoded.types is not None:
        inputs["token_type_ids"] = _filled([encoded.types[index] for index, _ in part], width, 0)
    return inputs, targets


def _filled(rows: Sequence[np.ndarray], width: int, value: int) -> Tensor:
    """Rows of several lengths as a tensor (B, N) int64, filled up behind their end."""
    filled = np.full((len(rows), width), value, dtype=np.int64)
    for row, content in zip(filled, rows, strict=True):
        row[: len(content)] = content
    return torch.from_numpy(filled)
