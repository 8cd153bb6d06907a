"""Optimizer and schedule, from timm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    optimizer_kwargs,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from torch import nn

from .checkpoint import pack
from .config import RunConfig
from .quantised_lion import QuantisedLion

# torch's optimizers that can update all parameters in one kernel, on a CPU or a GPU
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
_MILESTONES = (0.3, 0.6, 0.9)  # shares of the updates behind the warm-up: timm's 90, 180 and 270 of 300 epochs


def make_optimizer(model: nn.Module, config: RunConfig) -> torch.optim.Optimizer:
    """timm's optimizer, or ours (`qlion8`), over the trained parameters, in the groups of `parameter_groups`.

    torch's own Adam, AdamW and SGD are fused: a step of AdamW over fifty small tensors takes a fifth of the time on a
    CPU, and one kernel instead of hundreds on a GPU.

    Raises:
        ValueError: nothing is trained; timm has no such optimizer, or it does not work here (those for CUDA alone,
            second derivatives, settings that a checkpoint cannot hold).
    """
    devices = {p.device.type for p in model.parameters() if p.requires_grad}
    if not devices:
        raise ValueError(
            "no parameter of the model is trained: choose a method (--method.name), or give the model classes"
        )
    factors = dict(config.method.learning_rates(model)) if config.method is not None else {}
    try:
        options = optimizer_kwargs(config)  # the names are timm's
        decays = {name: options.pop(name, None) for name in ("weight_decay", "layer_decay")}
        groups = parameter_groups(model, factors, **decays)
        if config.opt.lower() == "qlion8":
            chosen = {name: options[name] for name in ("lr", "betas") if options.get(name) is not None}
            return QuantisedLion(groups, **chosen)
        kind = get_optimizer_class(config.opt.lower().rpartition("_")[2], bind_defaults=False)
        fused: dict[str, Any] = {"fused": True} if kind in _FUSED and devices <= {"cpu", "cuda"} else {}
        optimizer = create_optimizer_v2(groups, **options, **fused)
    except (ValueError, AssertionError) as error:  # by assertions timm asks for CUDA, APEX or bitsandbytes
        raise ValueError(f"--opt {config.opt}: {error}") from error
    if getattr(optimizer, "is_second_order", False):
        raise ValueError(f"--opt {config.opt} needs second derivatives, which this loop does not make: choose adamw")
    try:
        pack(optimizer.state_dict(), {})
    except TypeError as error:
        raise ValueError(f"--opt {config.opt}: {error}; choose adamw, sgd, lion, ...") from error
    return optimizer


def parameter_groups(
    model: nn.Module,
    factors: Mapping[nn.Parameter, float],
    *,
    weight_decay: float,
    layer_decay: float | None = None,
) -> list[dict[str, Any]]:
    """timm's groups of the trained parameters: `params`, `weight_decay` and, where a rate has a factor, `lr_scale`.

    Without weight decay are biases, norms, gains, coefficients and other vectors, as in timm, and what a module of the
    model names in its `no_weight_decay()`: timm's position embeddings and class tokens, our prompts.

    Args:
        factors: of the learning rate, by parameter; by the method's `learning_rates`, say.
        layer_decay: timm's, of the learning rate from block to block; the factors are multiplied by it.
    """
    spared = [
        f"{name}.{entry}" if name else entry
        for name, module in model.named_modules()
        for entry in getattr(module, "no_weight_decay", tuple)()
    ]
    groups: list[dict[str, Any]]
    if layer_decay is None:
        groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
    else:
        groups = param_groups_layer_decay(model, weight_decay, spared, layer_decay=layer_decay)
    split = []
    for group in groups:
        by_factor: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            by_factor.setdefault(factors.get(parameter, 1.0), []).append(parameter)
        for factor, parameters in by_factor.items():
            # lr_scale is timm's: its schedules multiply by it
            scale = {} if factor == 1 else {"lr_scale": group.get("lr_scale", 1.0) * factor}
            split.append({**group, "params": parameters, **scale})
    return split


def draws_numbers(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a step may draw random numbers: some of timm's optimizers do, none of torch's."""
    return not type(optimizer).__module__.startswith("torch.optim.")


def warmup_updates(config: RunConfig, updates_per_epoch: int) -> int:
    """Updates of linear warm-up."""
    total = config.max_steps or config.epochs * updates_per_epoch
    if config.warmup_epochs is not None:
        return config.warmup_epochs * updates_per_epoch
    if config.warmup_steps is not None:
        return int(config.warmup_steps * (total if config.warmup_steps < 1 else 1))
    return total // 10 if config.max_steps else round(config.epochs / 10) * updates_per_epoch


def make_schedule(optimizer: torch.optim.Optimizer, config: RunConfig, updates_per_epoch: int) -> Any:
    """timm's schedule, stepped after each update: linear warm-up, then the rest of the run, ending at min_lr.

    Raises:
        ValueError: the warm-up is as long as the run, or asked for where there is no schedule; timm refuses it.
    """
    total, warmup = config.max_steps or config.epochs * updates_per_epoch, warmup_updates(config, updates_per_epoch)
    if warmup >= total:
        option = "epochs" if config.warmup_epochs is not None else "steps"
        given = getattr(config, f"warmup_{option}")
        raise ValueError(
            f"--warmup-{option} {given} are {warmup} updates, all of the run's {total}: say less, or more "
            "--epochs or --max-steps"
        )
    if config.sched == "none" and (config.warmup_epochs or config.warmup_steps):
        raise ValueError("--sched none has no warm-up: say --sched constant, or leave --warmup-epochs and -steps out")
    third = total // 3 if config.max_steps else config.epochs // 3 * updates_per_epoch
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            # all in updates
            num_epochs=total - warmup,
            decay_epochs=max(1, third),
            # timm decays an update before its milestones
            decay_milestones=[round(share * (total - warmup)) + 1 for share in _MILESTONES],
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
