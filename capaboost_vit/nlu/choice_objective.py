"""The objective of multiple choice: cross-entropy over the choices of an example."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..training.distributed import ProcessGroup
from ..training.objective import Objective
from ..training.outputs import Outputs
from .choices import Choices


def choosing() -> Objective:
    """`-log softmax(z)_right` of logits (B, K), targets (B, K): 1 is the right choice, 0 another, -1 none (padding).

    The softmax is over the choices that an example has. One without any, which only stands in, adds nothing. The score
    is the share of right answers (%).
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(of_choices(outputs, targets), _labels(targets), ignore_index=-1, reduction="sum")

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        return (of_choices(outputs, targets).argmax(1) == _labels(targets)).sum()

    def scores(logits: Tensor, batches: Any) -> dict[str, float]:
        encoded: Choices = batches.source.encoded
        asked = torch.tensor([int(row.argmax()) for row in encoded.targets or ()])
        return {"accuracy": 100 * (logits.argmax(1) == asked).double().mean().item()}

    return Objective(("accuracy",), loss, ChoiceLogits, scores, right=right)


class ChoiceLogits:
    """Accumulated logits (examples, K), -inf where an example has fewer choices, in the order of the split."""

    def __init__(self, batches: Any) -> None:
        self.outputs = Outputs(batches)

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, K), targets (B, K)."""
        self.outputs.add(of_choices(outputs, targets), targets)

    def result(self, world: ProcessGroup) -> Tensor:
        """Gathered from all processes."""
        return self.outputs.result(world)


def of_choices(outputs: Tensor, targets: Tensor) -> Tensor:
    """The logits (B, K) in float32, -inf where an example has no such choice; as they are where it has none at all."""
    padding = targets < 0
    return outputs.float().masked_fill(padding & ~padding.all(1, keepdim=True), -torch.inf)


def _labels(targets: Tensor) -> Tensor:
    """The right choice (B,) of targets (B, K); -1 where there is none."""
    return targets.argmax(1).where(targets.amax(1) > 0, -1)
