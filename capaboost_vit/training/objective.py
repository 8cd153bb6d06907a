"""Objectives: the loss of training, and the scores of evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import ProcessGroup


class Accumulator(Protocol):
    """Accumulates a model's outputs on held-out batches into one tensor."""

    def add(self, outputs: Tensor, targets: Tensor) -> None: ...

    def result(self, world: ProcessGroup) -> Tensor: ...  # over all processes, on the CPU


class Objective(Protocol):
    """Objective: a loss to minimise, and scores to maximise."""

    @property
    def names(self) -> tuple[str, ...]: ...  # of the scores; the best epoch is chosen by the first

    @property
    def counts_right(self) -> bool: ...  # whether an example can be answered right or wrong

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor: ...  # the sum over the examples

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor: ...  # how many are answered right

    def accumulator(self, batches: Any) -> Accumulator: ...  # a new one for each evaluation

    def scores(self, accumulated: Tensor, batches: Any) -> dict[str, float]: ...


class Confusion:
    """Confusion matrix (C, C), int64: how often label i was answered with class j; -1 is the padding label.

    Counted on the device without waiting for it, which neither a boolean index nor bincount could do: the shapes of
    what they return depend on the values.
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

    def result(self, world: ProcessGroup) -> Tensor:
        """The sum over all processes; (0, 0) of no batch."""
        return torch.zeros(0, 0, dtype=torch.int64) if self.counts is None else world.sum(self.counts).cpu()


def accuracy(confusion: Tensor) -> dict[str, float]:
    """The share of right answers in per cent."""
    return {"accuracy": 100 * int(confusion.trace()) / int(confusion.sum())}


class Classification:
    """Cross-entropy of logits (B, C) with labels (B,), or with probabilities (B, C); -1 is the padding label.

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
            ignore_index=-1 if targets.ndim == 1 else -100,  # probabilities have no padding label
            reduction="sum",
            label_smoothing=self.smoothing,
        )

    def right(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """How often the largest logit is that of the (most probable) label."""
        return (outputs.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))).sum()

    def accumulator(self, batches: Any) -> Confusion:
        """Predictions are counted."""
        return Confusion()

    def scores(self, accumulated: Tensor, batches: Any) -> dict[str, float]:
        """From the confusion matrix."""
        return dict(self.score(accumulated))
