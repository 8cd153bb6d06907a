"""Sharding: each process holds its part of the frozen weights, and gathers those of a block while it computes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from .distributed import ProcessGroup

_LISTS = (nn.ModuleList, nn.Sequential)


def shard_frozen(model: nn.Module, world: ProcessGroup, device: torch.device) -> None:
    """Shards the frozen weights over all processes by torch's `fully_shard` (FSDP2), in place.

    What is trained stays whole in each process, as do scalars. A group is what is gathered at once: each block, and all
    that stands beside the blocks.

    Args:
        model: on its device, with the same weights in all processes.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world.size,))
    whole = {p for p in model.parameters() if p.requires_grad or p.ndim == 0}
    for part in (*blocks(model), model):
        # also of the root, which FSDP2 would keep: a state dict, which the first process alone makes, gives it back
        fully_shard(part, mesh=mesh, ignored_params=whole, reshard_after_forward=True)


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The entries of the outermost lists of modules (blocks, stages, layers) that have parameters, each once."""
    for child in model.children():
        if isinstance(child, _LISTS):
            yield from (entry for entry in child.children() if next(entry.parameters(), None) is not None)
        else:
            yield from blocks(child)
