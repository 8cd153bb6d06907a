"""Optimizer and schedule, from timm."""

from __future__ import annotations

from typing import Any

import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from torch import nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """timm's optimizer over the trained parameters; biases and norms without weight decay, as timm does.

    Raises:
        ValueError: nothing is trained, or timm has no such optimizer.
    """
    if not any(p.requires_grad for p in model.parameters()):
        raise ValueError("no parameter of the model is trained: choose a method, or give the model classes")
    try:
        return create_optimizer_v2(
            model,
            opt=config.opt,
            lr=config.lr,
            weight_decay=config.weight_decay,
            momentum=config.momentum,
            layer_decay=config.layer_decay,
        )
    except ValueError as error:
        raise ValueError(f"--opt {config.opt}: {error}") from error


def make_schedule(optimizer: torch.optim.Optimizer, config: TrainConfig, updates_per_epoch: int) -> Any:
    """timm's schedule, stepped after each update: linear warm-up, then the rest of the epochs, ending at min_lr.

    Raises:
        ValueError: timm has no such schedule, or it needs a metric (plateau).
    """
    warmup = round(config.epochs / 10) if config.warmup_epochs is None else config.warmup_epochs
    if config.sched == "plateau":
        raise ValueError(
            "--sched plateau follows a metric, which this loop does not feed: choose cosine, poly, step, ..."
        )
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=config.sched,
            num_epochs=config.epochs - warmup,
            decay_epochs=max(1, config.epochs // 3),
            warmup_epochs=warmup,
            warmup_lr=config.warmup_lr,
            warmup_prefix=True,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=updates_per_epoch,
        )
    except ValueError as error:
        raise ValueError(f"--sched {config.sched}: {error}; choose cosine, poly, step, tanh or none") from error
    return schedule
