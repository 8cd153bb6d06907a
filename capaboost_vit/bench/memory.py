"""What a training step needs in memory: its peak, and what the forward pass keeps for the backward pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.names import get
from .steps import TrainingStep


def memory_of(step: TrainingStep) -> dict[str, int]:
    """Bytes of a case that has made a step before, so that its optimizer has its state.

    `resident`: weights, buffers, optimizer state and the batch: what is there between the steps. `peak`: the most there
    ever is within the step, `resident` included. `saved`: what autograd keeps of an uncompiled forward pass, without
    parameters and buffers; views and tensors that several operations keep are counted once.
    """
    states: Iterable[dict[str, Any]] = step.optimizer.state.values() if step.optimizer else ()
    tensors = [value for state in states for value in state.values() if isinstance(value, Tensor)]
    tensors += [*step.model.parameters(), *step.model.buffers()]
    resident = nbytes([*tensors, *step.inputs.values(), step.subject.labels])
    peak = peak_of(step, step.subject.device)
    saved = nbytes(saved_tensors(lambda: step.loss(step.network)), without=tensors)
    return {"resident": resident, "peak": resident + peak, "saved": saved}


def peak_of(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes that live at once during a call, beyond those that lived at its start.

    On a GPU PyTorch's allocator counts them. On a CPU the profiler reports each block that PyTorch's allocator gives
    out and takes back, with those that a kernel needs only inside; their running sum has the peak. (A dispatch mode
    would miss the latter, and the size of the process says little, as freed blocks stay with it.) Scratch memory that
    oneDNN or a BLAS takes on its own is in neither; nor is it seen that a block from before the call is freed in it.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler would greet on stderr
    with torch.autograd.profiler.profile(profile_memory=True) as profiler:
        call()
    events = [e for e in profiler.kineto_results.events() if e.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def saved_tensors(forward: Callable[[], Tensor]) -> list[Tensor]:
    """The tensors that autograd keeps of a forward pass, whose graph is let go afterwards."""
    kept: list[Tensor] = []  # alive to the end, so that no two of them can have the same place

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor.detach())  # with its history, a tensor that its own node keeps would never be let go
        return kept[-1]

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward()
    return kept


def stored_inputs(floor: TrainingStep, names: Iterable[str]) -> tuple[int, int]:
    """Bytes of the inputs of the named linear layers: all of them, and those that the floor does not keep anyway.

    Whoever trains a layer's first factor must keep its input, in the precision in which the layer computes. Each
    storage counts once; some, such as the output of the attention, are kept for another operation as well.
    """
    workload, inputs = floor.workload, dict[int, Tensor]()

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        inputs[args[0].untyped_storage().data_ptr()] = args[0]

    hooks = [get(floor.model, name).register_forward_pre_hook(look) for name in names]
    kept = {tensor.untyped_storage().data_ptr() for tensor in saved_tensors(lambda: floor.loss(floor.model))}
    for hook in hooks:
        hook.remove()
    amp_width = getattr(torch, workload.amp_dtype).itemsize
    sizes = {place: x.numel() * (amp_width if workload.amp else x.itemsize) for place, x in inputs.items()}
    return sum(sizes.values()), sum(size for place, size in sizes.items() if place not in kept)


def stored(model: nn.Module) -> int:
    """Bytes of a model's state: those of a file of it, but for its header."""
    return nbytes(model.state_dict().values())


def nbytes(tensors: Iterable[Tensor], without: Iterable[Tensor] = ()) -> int:
    """Bytes of the storages behind the tensors, each counted once, leaving out those behind `without`."""
    left_out = {tensor.untyped_storage().data_ptr() for tensor in without}
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(size for place, size in storages.items() if place not in left_out)
