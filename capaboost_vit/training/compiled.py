"""The model as it is called: as it is, or through torch.compile, once for batches of all sizes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .config import TrainConfig


def compiled(model: nn.Module, config: TrainConfig) -> Any:
    """The model, compiled where the configuration says so; it shares all tensors with the one given."""
    return torch.compile(model, mode=config.compile_mode) if config.compile else model


def answer(model: Any, inputs: Tensor, config: TrainConfig) -> Tensor:
    """`model(inputs)`, in mixed precision with `amp`.

    To torch.compile the size of the batch is a variable: left to itself it would compile for the first size, and again
    for the last batch of an epoch, which is smaller. (A batch of one image is compiled for apart.)
    """
    if config.compile:
        torch._dynamo.maybe_mark_dynamic(inputs, 0)
    dtype = getattr(torch, config.amp_dtype)
    with torch.autocast(inputs.device.type, dtype=dtype, enabled=config.amp):
        return model(inputs)
