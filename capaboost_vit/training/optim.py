"""Optimizer and schedule, from timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_class, optimizer_kwargs
from timm.scheduler import create_scheduler_v2
from torch import nn

from .checkpoint import pack
from .config import RunConfig

# torch's optimizers that can update all parameters in one kernel, on a CPU or a GPU
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """timm's optimizer over the trained parameters; biases, norms and other vectors without weight decay, as timm does.

    Parameters for which the method has a `learning_rates` factor stand in groups of their own.

    torch's own Adam, AdamW and SGD are fused: a step of AdamW over fifty small tensors takes a fifth of the time on a
    CPU, and one kernel instead of hundreds on a GPU.

    Raises:
        ValueError: nothing is trained; timm has no such optimizer, or it does not work here (those for CUDA alone,
            second derivatives, settings that a checkpoint cannot hold).
    """
    devices = {p.device.type for p in model.parameters() if p.requires_grad}
    if not devices:
        raise ValueError("no parameter of the model is trained: choose a method, or give the model classes")
    try:
        kind = get_optimizer_class(config.opt.lower().rpartition("_")[2], bind_defaults=False)
        fused: dict[str, Any] = {"fused": True} if kind in _FUSED and devices <= {"cpu", "cuda"} else {}
        optimizer = create_optimizer_v2(model, **optimizer_kwargs(config), **fused)  # the names are timm's
    except (ValueError, AssertionError) as error:  # by assertions timm asks for CUDA, APEX or bitsandbytes
        raise ValueError(f"--opt {config.opt}: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise ValueError(f"--opt {config.opt} needs second derivatives, which this loop does not make: choose adamw")
    try:
        pack(optimizer.state_dict(), {})
    except TypeError as error:
        raise ValueError(f"--opt {config.opt}: {error}; choose adamw, sgd, lion, ...") from error
    if config.method is not None:
        _split_groups(optimizer, {id(p): factor for p, factor in config.method.learning_rates(model)})
    return optimizer


def _split_groups(optimizer: torch.optim.Optimizer, factors: Mapping[int, float]) -> None:
    """Gives parameters (by id) whose rate has a factor a group of their own, behind the one that they stand in."""
    groups = []
    for group in optimizer.param_groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(id(parameter), 1.0), []).append(parameter)
        for factor, parameters in by_factor.items():
            # lr_scale is timm's: its schedules multiply by it
            scale = {} if factor == 1 else {"lr_scale": group.get("lr_scale", 1.0) * factor}
            groups.append({**group, "params": parameters, **scale})
    optimizer.param_groups[:] = groups  # in place, as a lookahead holds the list of its inner optimizer


def draws_numbers(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step may draw random numbers: some of timm's optimizers do, none of torch's."""
    return not type(optimizer).__module__.startswith("torch.optim.")


def make_schedule(optimizer: torch.optim.Optimizer, config: RunConfig, updates_per_epoch: int) -> Any:
    """timm's schedule, stepped after each update: linear warm-up, then the rest of the run, ending at min_lr.

    Raises:
        ValueError: the warm-up is as long as the run, or timm refuses the schedule.
    """
    total = config.max_steps or config.epochs * updates_per_epoch
    if config.warmup_epochs is not None:
        warmup = config.warmup_epochs * updates_per_epoch
    elif config.warmup_steps is not None:
        warmup = int(config.warmup_steps * (total if config.warmup_steps < 1 else 1))
    else:
        warmup = total // 10 if config.max_steps else round(config.epochs / 10) * updates_per_epoch
    if warmup >= total:
        option = "epochs" if config.warmup_epochs is not None else "steps"
        given = getattr(config, f"warmup_{option}")
        raise ValueError(f"--warmup-{option} {given} are {warmup} updates, all of the run's {total}")
    third = total // 3 if config.max_steps else config.epochs // 3 * updates_per_epoch
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            # all in updates
            num_epochs=total - warmup,
            decay_epochs=max(1, third),
            decay_rate=config.decay_rate,
            warmup_epochs=warmup,
            warmup_lr=config.warmup_lr,
            warmup_prefix=True,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=1,
        )
    except ValueError as error:
        raise ValueError(f"--sched {config.sched}: {error}") from error
    if schedule is None:
        for group in optimizer.param_groups:
            group["lr"] *= group.get("lr_scale", 1.0)  # of layer_decay; schedules do it themselves
    return schedule
