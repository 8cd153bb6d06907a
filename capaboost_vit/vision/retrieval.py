"""Retrieval of tasks in timm's ViTs: what the base makes of an image says whose adapters it goes through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.hypernetwork import Hypernetwork
from ..core.task_choice import TaskChoice
from ..core.wrapper import Wrapper


class RetrievingBlock(Wrapper):
    """The first block of a model, which chooses the task of each example before it computes: (B, N, D) to (B, N, D).

    The tokens go through all blocks and the last norm without adapters and without gradients, and their mean over all
    N is what the query is made of. Where the tasks are known that is done in training alone, for the losses.

    Args:
        base: the block.
        behind: what follows it, the other blocks and the norm; they stand in the model, and no child of this module.
        hypernetwork: has retriever and prototypes. choice: is told, and tells the adapters and the head.
    """

    adds = "retrieval of tasks"

    def __init__(
        self, base: nn.Module, behind: Sequence[nn.Module], hypernetwork: Hypernetwork, choice: TaskChoice
    ) -> None:
        super().__init__(base)
        self.hypernetwork, self.choice = hypernetwork, choice
        self._behind = tuple(behind)  # in a tuple, or they would be this module's too
        self.train(base.training)

    def train(self, mode: bool = True) -> RetrievingBlock:
        """With what follows: a twin of the model has another last block, and would leave this one in its mode."""
        super().train(mode)
        for module in self._behind:
            module.train(mode)
        return self

    def additions(self) -> dict[str, nn.Module]:
        """None: what it asks is the adapters'."""
        return {}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Further arguments are the attention's."""
        choice = self.choice
        choice.tasks = None
        pooled = self._pooled(x, *args, **kwargs) if self.training or choice.known is None else None
        if choice.known is None:
            assert pooled is not None
            choice.tasks = self.hypernetwork.nearest(pooled)
        else:
            choice.tasks, choice.pooled = choice.known, pooled
        return self.base(x, *args, **kwargs)

    @torch.no_grad()
    def _pooled(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        x = self.base(x, *args, **kwargs)
        *blocks, norm = self._behind
        for block in blocks:
            x = block(x, *args, **kwargs)
        pooled: Tensor = norm(x).mean(1)
        return pooled
