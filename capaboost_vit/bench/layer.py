"""One adapted linear layer alone, at the model's shapes: forward, and backward."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.inject import get
from .cases import TrainingStep, autocast, compiled
from .timing import Lap


class LayerPass:
    """The layer in one slot of a case's model, forward and backward; its input requires a gradient.

    Called with `lap`, it ends the phases "forward" and "backward".

    Args:
        x: the input, (B, N, in).
    """

    def __init__(self, step: TrainingStep, name: str, x: Tensor) -> None:
        self.step = step
        self.layer = get(step.model, name)
        self.called: Any = compiled(self.layer, step.workload)
        self.x = x.detach().requires_grad_()
        self.grad = torch.randn_like(self._forward())

    def _forward(self) -> Tensor:
        with autocast(self.step.workload, self.step.batch):
            y: Tensor = self.called(self.x)
        return y

    def __call__(self, lap: Lap = lambda phase: None) -> None:
        y = self._forward()
        lap("forward")
        y.backward(self.grad)
        lap("backward")
        self.x.grad = None
        self.layer.zero_grad()


def input_of(step: TrainingStep, name: str) -> Tensor:
    """What enters the layer of that name in a step's forward pass."""
    seen: list[Tensor] = []

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        seen.append(args[0])

    hook = get(step.model, name).register_forward_pre_hook(look)
    with torch.no_grad():
        step.loss(step.model)
    hook.remove()
    return seen[0]


def layer_passes(steps: Mapping[str, TrainingStep], name: str) -> dict[str, LayerPass]:
    """The layer of that name in each of the cases, all fed with what the first case's model feeds it."""
    x = input_of(next(iter(steps.values())), name)
    return {case: LayerPass(step, name, x) for case, step in steps.items()}
