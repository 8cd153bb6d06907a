"""Texts as batches: token ids, padded to the longest example of their batch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..training.loader import EvalLoader, Part, TrainLoader
from .masking import NOT_ASKED, Masking
from .tokens import Encoded

Batch = tuple[dict[str, Tensor], Tensor]  # input_ids, attention_mask[, token_type_ids] (B, N) int64; targets
# the padding label, that of an example that only stands in: -1 for classes and spans, -100 for masked tokens, and NaN
# for scores, of which -1 may be one

_MULTIPLE = 8  # of tokens, as GPUs like it


class TextExamples:
    """The examples of one split, as batches that are filled up to their longest example.

    Args:
        masking: for masked tokens, drawn anew in each epoch, as a function of (seed, epoch, index).

    Raises:
        ValueError: no targets, and no masking that makes them.
    """

    def __init__(self, encoded: Encoded, masking: Masking | None = None) -> None:
        if encoded.targets is None and masking is None:
            raise ValueError("these examples have no labels: give a masking, which asks for masked tokens")
        self.encoded, self.masking = encoded, masking

    def __len__(self) -> int:
        return len(self.encoded)

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Batch]:
        """A batch for each part."""
        return (self._batch(part, epoch) for part in parts)

    def close(self) -> None:
        """Nothing is held: no processes, no files."""

    def _batch(self, part: Part, epoch: int) -> Batch:
        encoded, masking = self.encoded, self.masking
        rows = [encoded.ids[index] for index, _ in part]
        longest = max(map(len, rows))
        width = max(longest, min(_MULTIPLE * math.ceil(longest / _MULTIPLE), encoded.max_length or 2**31))
        if masking is None:
            assert encoded.targets is not None
            targets = encoded.targets[[index for index, _ in part]]
        else:
            drawn = [masking(row, epoch=epoch, index=index) for row, (index, _) in zip(rows, part, strict=True)]
            rows = [inputs for inputs, _ in drawn]
            targets = _padded([asked for _, asked in drawn], width, NOT_ASKED)
        for row, (_, counts) in enumerate(part):
            if not counts:
                targets[row] = NOT_ASKED if masking else math.nan if targets.is_floating_point() else -1
        inputs = {
            "input_ids": _padded(rows, width, encoded.pad_id),
            "attention_mask": _padded([np.ones_like(row) for row in rows], width, 0),
        }
        if encoded.types is not None:
            inputs["token_type_ids"] = _padded([encoded.types[index] for index, _ in part], width, 0)
        return inputs, targets


def text_train_loader(
    encoded: Encoded, *, masking: Masking | None = None, group_by_length: bool = True, **updates: Any
) -> TrainLoader:
    """The training examples of one split as updates of the optimizer.

    Args:
        group_by_length: examples of about the same length come into the same update.
        updates: see `TrainLoader`.
    """
    lengths = encoded.lengths if group_by_length else None
    return TrainLoader(TextExamples(encoded, masking), lengths=lengths, **updates)


def text_eval_loader(encoded: Encoded, *, masking: Masking | None = None, **share: Any) -> EvalLoader:
    """Batches of one split for an evaluation, the longest examples first, so that little is filled up.

    Args:
        share: see `EvalLoader`.
    """
    order = np.argsort(-encoded.lengths, kind="stable").tolist()
    return EvalLoader(TextExamples(encoded, masking), order=order, **share)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on a device."""
    inputs, targets = batch
    there = {name: tensor.to(device, non_blocking=True) for name, tensor in inputs.items()}
    return there, targets.to(device, non_blocking=True)


def _padded(rows: Sequence[np.ndarray], width: int, value: int) -> Tensor:
    """Rows of several lengths as a tensor (B, N) int64, padded behind their end."""
    padded = np.full((len(rows), width), value, dtype=np.int64)
    for row, content in zip(padded, rows, strict=True):
        row[: len(content)] = content
    return torch.from_numpy(padded)
