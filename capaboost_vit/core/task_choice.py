"""Which task each example of a batch is of: known, or found by the nearest prototype."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .wrapper import Wrapper

_FAR = 30.0  # below the lowest logit of the task: e^-30 is nothing beside it in float32, and float16 has room for it


class TaskChoice(nn.Module):
    """The tasks of the examples that are computed now, for all modules of a model that ask.

    Args:
        classes: how many classes each task has; the rows of a head are theirs, task by task.

    Attributes:
        of_class: the task of each class, (C,).
        known: tasks (B,) that the model is told of, within `knowing`; else None.
        tasks: those of the batch, (B,), from its entrance into the model on; None: none, the model computes its base.
        pooled: what the base makes of the batch, (B, D), within `knowing` and in training.
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
    """Heads of several tasks in one: `z_c` of the classes c of the example's task, and `min z - 30` of all others.

    So an answer is always a class of that task, and the cross-entropy over all classes is that over the task's. Outside
    of a pass of the model, where no task is chosen, it is its base.

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
