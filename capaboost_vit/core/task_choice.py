"""The task of each example of a batch: known, or found by the nearest prototype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .wrapper import Wrapper

_FAR = 30.0  # below the lowest logit of the task: e^-30 is nothing beside it in float32, and float16 has room for it


class TaskChoice(nn.Module):
    """The tasks of the examples in the current pass, shared by the modules of a model.

    Args:
        classes: number of classes of each task; the head has their rows, task by task.

    Attributes:
        of_class: the task of each class, (C,).
        known: the given tasks (B,) in a context of `knowing`; else None.
        tasks: those of the batch, (B,), set when it enters the model; None: no task, the model computes its base.
        pooled: the pooled output of the base for the batch, (B, D), in a context of `knowing` and in training.
    """

    of_class: Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        of_class = [task for task, count in enumerate(classes) for _ in range(count)]
        self.register_buffer("of_class", torch.tensor(of_class), persistent=False)
        self.count = len(classes)
        self.known: Tensor | None = None
        self.tasks: Tensor | None = None
        self.pooled: Tensor | None = None

    @contextmanager
    def knowing(self, labels: Tensor) -> Iterator[None]:
        """Within the block the task is that of the labels (B,); padding, -1, counts as any."""
        before = self.known
        self.known = self.of_class[labels.clamp(min=0)]
        try:
            yield
        finally:
            self.known, self.tasks, self.pooled = before, None, None

    def weights(self, x: Tensor) -> Tensor | None:
        """1 at the task of each example of x (B, ..., D) and 0 at others, (B, 1, ..., T); None where there are none."""
        if self.tasks is None:
            return None
        one_hot = F.one_hot(self.tasks, self.count)
        return one_hot.view(len(one_hot), *[1] * (x.ndim - 2), self.count)


class TaskRows(Wrapper):
    """Heads of several tasks in one: `z_c` for the classes c of the example's task, and `min z - 30` for all others.

    So the prediction is always a class of that task, and the cross-entropy over all classes equals that over its
    classes. If no task is chosen, outside of a pass of the model, it computes its base.

    Args:
        base: the head, (B, D) to (B, C).
    """

    adds = "heads by task"

    def __init__(self, base: nn.Module, choice: TaskChoice) -> None:
        super().__init__(base)
        self.choice = choice
        self.train(base.training)

    def additions(self) -> dict[str, nn.Module]:
        """None: it says which rows count."""
        return {}

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.base(x)
        tasks = self.choice.tasks
        if tasks is None:
            return logits
        if not torch.is_grad_enabled():  # else blocks that are recomputed in the backward pass ask once more
            self.choice.tasks = None
        own = self.choice.of_class == tasks.unsqueeze(1)  # (B, C)
        lowest = logits.detach().masked_fill(~own, torch.inf).amin(1, keepdim=True)
        return torch.where(own, logits, lowest - _FAR)
