"""What training makes small, and what evaluation counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import World


class Tally(Protocol):
    """What is kept of a model's outputs on held-out batches."""

    def add(self, outputs: Tensor, targets: Tensor) -> None: ...

    def result(self, world: World) -> Tensor: ...  # over all processes, on the CPU


class Objective(Protocol):
    """A loss, and scores of which a larger one is better."""

    @property
    def names(self) -> tuple[str, ...]: ...  # of the scores; the best epoch is chosen by the first

    @property
    def counts_right(self) -> bool: ...  # whether an example can be answered right or wrong

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor: ...  # the sum over the examples

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor: ...  # how many are answered right

    def tally(self, batches: Any) -> Tally: ...  # for one evaluation on these batches

    def scores(self, found: Tensor, batches: Any) -> dict[str, float]: ...  # from what the tally has found


class Confusion:
    """The confusion matrix (C, C), int64: how often label i was answered with class j; labels of -1 count for nothing.

    Counted where it was computed, and nothing is waited for: neither a mask nor bincount could do that.
    """

    def __init__(self) -> None:
        self.counts: Tensor | None = None

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, C), targets (B,)."""
        classes = outputs.shape[-1]
        if self.counts is None:
            self.counts = torch.zeros(classes, classes, dtype=torch.int64, device=outputs.device)
        counted = (targets >= 0).long()
        self.counts.view(-1).scatter_add_(0, (targets * classes + outputs.argmax(-1)) * counted, counted)

    def result(self, world: World) -> Tensor:
        """The sum over all processes; (0, 0) of no batch."""
        return torch.zeros(0, 0, dtype=torch.int64) if self.counts is None else world.sum(self.counts).cpu()


def accuracy(confusion: Tensor) -> dict[str, float]:
    """The share of right answers in per cent."""
    return {"accuracy": 100 * int(confusion.trace()) / int(confusion.sum())}


class Classification:
    """Cross-entropy of logits (B, C) with labels (B,), or with probabilities (B, C); labels of -1 count for nothing.

    Args:
        smoothing: of the labels, in training.
        score: scores by name from the confusion matrix.
        names: of the scores; the best epoch is chosen by the first.
    """

    counts_right = True

    def __init__(
        self,
        *,
        smoothing: float = 0.0,
        score: Callable[[Tensor], Mapping[str, float]] = accuracy,
        names: tuple[str, ...] = ("accuracy",),
    ) -> None:
        self.smoothing, self.score, self.names = smoothing, score, names

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over the examples."""
        return F.cross_entropy(
            outputs.float(),
            targets,
            ignore_index=-1 if targets.ndim == 1 else -100,
            reduction="sum",
            label_smoothing=self.smoothing,
        )

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How often the largest logit is that of the (most probable) label."""
        return (outputs.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))).sum()

    def tally(self, batches: Any) -> Confusion:
        """Answers are counted."""
        return Confusion()

    def scores(self, found: Tensor, batches: Any) -> dict[str, float]:
        """From the confusion matrix."""
        return dict(self.score(found))
