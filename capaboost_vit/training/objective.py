"""Objectives: the loss of training, and the scores of evaluation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import ProcessGroup


class Accumulator(Protocol):
    """Accumulates a model's outputs on held-out batches into one tensor."""

    def add(self, outputs: Tensor, targets: Tensor) -> None: ...

    def result(self, world: ProcessGroup) -> Tensor: ...  # over all processes, on the CPU


def none_right(outputs: Tensor, targets: Tensor) -> Tensor:
    """Zero: for what is neither right nor wrong, such as a number."""
    return torch.zeros((), device=outputs.device)


@dataclass(frozen=True)
class Objective:
    """Objective: a loss to minimise, and scores to maximise.

    Args:
        names: of the scores; the best epoch is chosen by the first.
        loss: from outputs and targets, the sum over the examples; padding labels add nothing.
        accumulator: makes a new one for an evaluation, from its batches.
        scores: by name, from the accumulated tensor and the batches.
        right: how many of the examples are predicted right.
        confusion: whether a confusion matrix is accumulated.
    """

    names: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    accumulator: Callable[[Any], Accumulator]
    scores: Callable[[Tensor, Any], dict[str, float]]
    right: Callable[[Tensor, Tensor], Tensor] = none_right
    confusion: bool = False

    @property
    def counts_right(self) -> bool:
        """Whether an example can be predicted right or wrong."""
        return self.right is not none_right


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
        # padding adds 0 to the cell (0, 0)
        self.counts.view(-1).scatter_add_(0, (targets * classes + outputs.argmax(-1)) * counted, counted)

    def result(self, world: ProcessGroup) -> Tensor:
        """The sum over all processes; (0, 0) of no batch."""
        return torch.zeros(0, 0, dtype=torch.int64) if self.counts is None else world.sum(self.counts).cpu()


def accuracy(confusion: Tensor) -> dict[str, float]:
    """The share of right answers in per cent."""
    return {"accuracy": 100 * int(confusion.trace()) / int(confusion.sum())}


def classification(
    *,
    smoothing: float = 0.0,
    score: Callable[[Tensor], dict[str, float]] = accuracy,
    names: tuple[str, ...] = ("accuracy",),
) -> Objective:
    """Cross-entropy of logits (B, C) with labels (B,), of which -1 is padding, or with probabilities (B, C).

    Args:
        smoothing: label smoothing, in training.
        score: scores by name from the confusion matrix.
        names: of the scores.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        padding = -1 if targets.ndim == 1 else -100  # probabilities have none, and torch allows no -1 there
        return F.cross_entropy(
            outputs.float(), targets, ignore_index=padding, reduction="sum", label_smoothing=smoothing
        )

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))).sum()

    return Objective(names, loss, lambda _: Confusion(), lambda confusion, _: score(confusion), right, confusion=True)
