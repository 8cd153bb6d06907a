"""Sharding: each process holds its part of the frozen weights, and gathers those of a block while it computes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..core.base import is_shard
from .config import RunConfig
from .distributed import ProcessGroup


def to_device(model: nn.Module, config: RunConfig, world: ProcessGroup, device: torch.device) -> nn.Module:
    """The model on its device, in place; with `fsdp` this process's parts of its frozen weights alone."""
    if not config.fsdp:
        return model.to(device)
    shard_frozen(model, world, device)
    return model


def shard_frozen(model: nn.Module, world: ProcessGroup, device: torch.device) -> None:
    """Shards the frozen weights over all processes by torch's `fully_shard` (FSDP2), in place.

    What is trained stays whole in each process, as do scalars. A group is what is gathered at once: each block, and all
    that stands beside the blocks. The device never holds more than the parts and one group.

    Args:
        model: on the CPU or the device, with the same weights in all processes; its tensors are moved to the device.

    Raises ValueError if this PyTorch shards all of a model or nothing.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise ValueError(
            f"--fsdp needs a newer PyTorch than {torch.__version__}, whose fully_shard cannot leave out what is "
            "trained (ignored_params)"
        )
    mesh = init_device_mesh(device.type, (world.size,))
    whole = {p for p in model.parameters() if p.requires_grad or p.ndim == 0}
    for parameter in whole:
        parameter.data = parameter.data.to(device)  # FSDP2 moves the others, and buffers
    for part in (*blocks(model), model):
        # also of the root, which FSDP2 would keep: a state dict, which the first process alone makes, gives it back
        fully_shard(part, mesh=mesh, ignored_params=whole, reshard_after_forward=True)


def held(model: nn.Module) -> int:
    """How many entries of the model's parameters this process holds between the updates."""
    parts: Iterator[Any] = model.parameters()
    return sum((p.to_local() if is_shard(p) else p).numel() for p in parts)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The entries of the outermost lists of modules (blocks, stages, layers) that have parameters, each once."""
    for child in model.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)):
            yield from (entry for entry in child.children() if next(entry.parameters(), None) is not None)
        else:
            yield from blocks(child)
