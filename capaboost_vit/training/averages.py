"""Exponential moving averages of what is trained."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Averages:
    """`average <- decay * average + (1 - decay) * value` for the trained tensors alone: the frozen base has no copy.

    With warm-up the decay of update t is `min(decay, (1 + t) / (10 + t))`, as TensorFlow's, so that the start is soon
    forgotten.

    Args:
        trained: the live tensors by name.
    """

    def __init__(self, trained: Mapping[str, Tensor], decay: float) -> None:
        self.trained, self.decay = dict(trained), decay
        self.values: dict[str, Tensor] = {}
        self.restart()

    @torch.no_grad()
    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """A hook of the training loop: takes in the values behind an update, counted from 0."""
        count = update + 1
        weight = 1 - min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(list(self.values.values()), list(self.trained.values()), weight)

    def restart(self) -> None:
        """The values of now are the averages, as where training begins."""
        self.values = {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model for the block; after it the values are back, bit for bit."""
        before = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        put(self.trained, self.values)
        try:
            yield
        finally:
            put(self.trained, before)


@torch.no_grad()
def put(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies values into live tensors of the same names."""
    for name, value in values.items():
        targets[name].copy_(value)
