"""Models whose parameters torch's `fully_shard` (FSDP2) has split over processes."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from .base import class_of, is_shard


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was called on a model or a part of it: outside of its forward pass, weights are shards."""
    return any(class_of(part) is not type(part) for part in model.modules())


def check_whole(model: nn.Module, instead: str) -> None:
    """Raises ValueError if a model is sharded, and says what to do instead."""
    if is_sharded(model):
        kind = type(model).__name__
        raise ValueError(f"this {kind} is sharded by fully_shard, and no process has it whole: {instead}")


def writes(model: nn.Module) -> bool:
    """Whether this process writes the files of a model: of a sharded one the first process alone."""
    return not is_sharded(model) or dist.get_rank() == 0


def fill(tensor: Any, values: Tensor) -> None:
    """Copies values into a tensor; into a sharded one each process its part of them, the first process's values."""
    if is_shard(tensor):
        from torch.distributed.tensor import distribute_tensor

        values = distribute_tensor(values.to(tensor.device, tensor.dtype), tensor.device_mesh, tensor.placements)
    tensor.copy_(values)
