"""Objectives whose scores need the outputs of all examples: numbers, and several tags of an example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import ProcessGroup
from .objective import Objective

Score = Callable[[Tensor, Any], dict[str, float]]
Report = Callable[[Tensor, Any], dict[str, Any]]


class Outputs:
    """Accumulated outputs (examples, ...), in the order of the split, each once.

    Args:
        batches: have `indices`, those in the split of this process's examples.
    """

    def __init__(self, batches: Any) -> None:
        self.batches = batches
        self.rows: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """Keeps the rows of all examples but those that are padding."""
        first = targets if targets.ndim == 1 else targets[:, 0]
        real = ~first.isnan() if targets.is_floating_point() else first >= 0
        self.rows.append(outputs.float().cpu()[real.cpu()])

    def result(self, world: ProcessGroup) -> Tensor:
        """Gathered from all processes; outputs of unequal length are padded with -inf."""
        rows = world.gather(self.rows)
        longest = max(block.shape[-1] for block in rows)
        padded = torch.cat([F.pad(block, (0, longest - block.shape[-1]), value=-torch.inf) for block in rows])
        # process k has every n-th example: back to the order of the split
        return padded[torch.tensor(world.gather(self.batches.indices)).argsort()]


def regression(*, score: Score, names: tuple[str, ...], report: Report | None = None) -> Objective:
    """Squared error of outputs (B, 1) against targets (B,); NaN is the padding label.

    `score` makes the scores of these names from the outputs (examples,) and the batches, `report` all of them.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        real = ~targets.isnan()
        return ((outputs.float().squeeze(-1) - targets.nan_to_num()) * real).square().sum()

    full = None if report is None else lambda outputs, batches: report(outputs.squeeze(-1), batches)
    return Objective(names, loss, Outputs, lambda outputs, batches: score(outputs.squeeze(-1), batches), report=full)


def multi_label(*, score: Score, names: tuple[str, ...], report: Report | None = None) -> Objective:
    """Binary cross-entropy of logits (B, C) with targets (B, C) of 0 and 1, its mean over the C tags; NaN is padding.

    `sum_b 1/C sum_c -[t_bc log sigmoid(z_bc) + (1 - t_bc) log sigmoid(-z_bc)]`. `score` makes the scores of these names
    from the logits (examples, C) and the batches, `report` all of them.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs.float(), targets.nan_to_num(), reduction="none")
        return (losses * ~targets.isnan()).mean(1).sum()

    return Objective(names, loss, Outputs, score, report=report)


def tag_targets(labels: Sequence[Sequence[int]], count: int) -> Tensor:
    """Targets (examples, count) of 0 and 1, from the numbers of the tags of each example."""
    targets = torch.zeros(len(labels), count)
    for row, tags in enumerate(labels):
        targets[row, list(tags)] = 1
    return targets


def ranked(shares: Tensor, *, top: int, least: float = 0.0) -> list[tuple[list[float], list[int]]]:
    """The `top` largest of the shares (B, C) of each row, the highest first, that are at least `least`; and which."""
    best = shares.topk(min(top, shares.shape[-1]))
    counts = (best.values >= least).sum(-1).tolist()
    rows = zip(best.values.tolist(), best.indices.tolist(), counts, strict=True)
    return [(values[:count], indices[:count]) for values, indices, count in rows]
