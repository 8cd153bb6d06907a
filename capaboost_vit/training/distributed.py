"""Process group of a run: one process, or those that torchrun has started."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from ..core.sharded import is_sharded

T = TypeVar("T")


class ProcessLost(OSError):
    """Another process of the group has ended, was cut off, or did not answer in time."""


@dataclass(frozen=True)
class ProcessGroup:
    """Rank and size of the process group; `local_rank` counts the processes of one machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and the terminal of the run."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all processes, in place; the same bits in each."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, values: Sequence[T]) -> list[T]:
        """The values of all processes, one process after the other."""
        if self.size == 1:
            return list(values)
        gathered: list[Sequence[T]] = [[]] * self.size
        dist.all_gather_object(gathered, list(values))
        return [value for shard in gathered for value in shard]

    def barrier(self, device: torch.device) -> None:
        """Waits until all processes are here."""
        if self.size > 1:
            dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)


def torchrun_group() -> ProcessGroup:
    """The group that torchrun gives in RANK, WORLD_SIZE and LOCAL_RANK; without it one process."""
    variables = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0}
    return ProcessGroup(*(int(os.environ.get(name, alone)) for name, alone in variables.items()))


@contextmanager
def initialized(world: ProcessGroup, device: torch.device, *, timeout: float = 600.0) -> Iterator[None]:
    """Initializes the process group for the block: nccl between GPUs, gloo elsewhere.

    They leave it together, unless one fails: a process whose neighbour hangs up while it still listens may abort.

    Args:
        timeout: seconds that they wait for each other at most, here and in every collective.

    Raises:
        ProcessLost: one did not come, see `naming_lost`.
    """
    if world.size == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with naming_lost(world, timeout):
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=timedelta(seconds=timeout))
        try:
            yield
            world.barrier(device)
        finally:
            dist.destroy_process_group()


@contextmanager
def naming_lost(world: ProcessGroup, timeout: float) -> Iterator[None]:
    """Makes ProcessLost of what a collective in the block raises when another process fails or is frozen."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, dist.DistError) and "gloo" not in text:  # gloo's errors have no class of their own
            raise
        other = f"process {1 - world.rank}" if world.size == 2 else f"another of the {world.size} processes"
        late = "timed out" in text.lower() or "timeout" in text.lower()
        what = f"did not answer for {timeout:g} s (--timeout)" if late else "has ended or was cut off"
        raise ProcessLost(
            f"{other} {what}; go on from the last checkpoint with the same command and --resume"
        ) from error


def broadcast(value: T, world: ProcessGroup) -> T:
    """Broadcasts the first process's value to all of them."""
    if world.size == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box)
    return box[0]


def parallel(model: nn.Module, world: ProcessGroup, device: torch.device) -> nn.Module:
    """The model as it is with one process, else in DistributedDataParallel, which averages gradients over processes.

    Buffers are sent around only where batch norms are trained; those of masks and positions never change.
    """
    if world.size == 1:
        return model
    moving = bool(_moving_norms(model))
    parameters = inspect.signature(DistributedDataParallel).parameters
    option = "forward_sync_buffers" if "forward_sync_buffers" in parameters else "broadcast_buffers"  # its older name
    options: dict[str, Any] = {
        option: moving,
        "device_ids": [device] if device.type == "cuda" else None,
        "init_sync": not is_sharded(model),  # shards differ, as they should
    }
    return DistributedDataParallel(model, **options)


def sync_statistics(model: nn.Module, world: ProcessGroup) -> None:
    """Broadcasts the first process's running statistics of the batch norms that are trained.

    DistributedDataParallel does so only before a forward pass, so that they differ after the last one.
    """
    if world.size > 1:
        for norm in _moving_norms(model):
            for statistic in norm.buffers(recurse=False):
                dist.broadcast(statistic, 0)


def _moving_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms in training mode, which update their running statistics."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm) and module.training]


def pick_device(name: str | None, local_rank: int = 0) -> torch.device:
    """The device of that name, by default cuda where there is one; each process of a machine gets a GPU of its own.

    Raises:
        ValueError: it is not there.
    """
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and local_rank:
        name = f"cuda:{local_rank}"
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that is not there
        raise ValueError(f"--device {name}: {str(error).splitlines()[0]}") from error
