"""The one training loop: batches in, a trained model and its history out."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import TrainConfig
from .log import Log
from .optim import make_optimizer, make_schedule

Batch = tuple[Tensor, Tensor]  # inputs, targets (B,)


class Batches(Protocol):
    """A source of batches: `len` of one epoch, and the batches of a given epoch, in an order that is its own."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int) -> Iterator[Batch]: ...


def fit(
    model: nn.Module,
    train: Batches,
    val: Iterable[Batch] | None,
    *,
    prepare: Callable[[Batch], Batch],
    config: TrainConfig,
    log: Log,
) -> dict[str, float]:
    """Trains what the model leaves to the optimiser, in place.

    Args:
        train: training batches.
        val: validation batches, evaluated after each epoch, or None.
        prepare: moves a batch to the device and normalises it there.

    Returns:
        train_seconds (without validation) and images_per_second.

    Raises:
        FloatingPointError: the loss or the gradient is not finite; no update is made. (A scaler that finds a gradient
            of float16 that is not finite skips the update itself.)
        ValueError: nothing to train, an unknown optimizer or schedule, or no training batch.
    """
    if len(train) == 0:
        raise ValueError("the training split has no image")
    optimizer = make_optimizer(model, config)
    schedule = make_schedule(optimizer, config, len(train))
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    device = trained[0].device
    scaler = torch.amp.GradScaler(device.type, enabled=config.amp and config.amp_dtype == "float16")
    seconds, images, update = 0.0, 0, 0
    if schedule is not None:
        schedule.step_update(0)
    for epoch in range(config.epochs):
        model.train()
        started, loss_sum, correct, seen = time.perf_counter(), 0.0, 0, 0
        for step, batch in enumerate(train.epoch(epoch), start=1):
            inputs, targets = prepare(batch)
            with autocast(config, device):
                logits = model(inputs)
                loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.smoothing)
            value = loss.item()
            if not math.isfinite(value):
                raise FloatingPointError(f"the loss is {value} in epoch {epoch + 1}, step {step}: try a smaller --lr")
            optimizer.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            norm = nn.utils.clip_grad_norm_(trained, math.inf if config.clip_grad is None else config.clip_grad)
            if not torch.isfinite(norm) and not scaler.is_enabled():
                raise FloatingPointError(
                    f"the gradient is not finite in epoch {epoch + 1}, step {step}: try a smaller --lr or --clip-grad 1"
                )
            scaler.step(optimizer)
            scaler.update()
            update += 1
            if schedule is not None:
                schedule.step_update(update)
            loss_sum += value * len(targets)
            correct += int((logits.argmax(-1) == targets).sum())
            seen += len(targets)
            log.step(epoch, step, value)
            if update % config.log_interval == 0:
                log.scalars({"train/loss": value, "train/lr": optimizer.param_groups[0]["lr"]}, update)
        seconds += time.perf_counter() - started
        images += seen
        row: dict[str, Any] = {
            "epoch": epoch + 1,
            "train_loss": loss_sum / seen,
            "train_accuracy": 100 * correct / seen,
        }
        if val is not None:
            confusion = evaluate(model, val, prepare=prepare, config=config)
            row["val_accuracy"] = 100 * int(confusion.trace()) / int(confusion.sum())
        row["images_per_second"] = images / seconds
        row["seconds"] = seconds
        log.scalars({f"epoch/{name}": value for name, value in row.items() if name != "epoch"}, epoch + 1)
        log.epoch(row)
    return {"train_seconds": seconds, "images_per_second": images / seconds}


@torch.inference_mode()
def evaluate(
    model: nn.Module, batches: Iterable[Batch], *, prepare: Callable[[Batch], Batch], config: TrainConfig
) -> Tensor:
    """Confusion matrix (C, C), int64: how often label i was answered with class j, each image once.

    Its trace is the number of right answers, its sum that of all. Leaves the model in evaluation mode.
    """
    model.eval()
    device = next(model.parameters()).device
    confusion = torch.zeros(0, 0, dtype=torch.int64)
    for batch in batches:
        inputs, targets = prepare(batch)
        with autocast(config, device):
            logits = model(inputs)
        classes = logits.shape[-1]
        pairs = (targets * classes + logits.argmax(-1)).cpu()
        counts = torch.bincount(pairs, minlength=classes * classes).view(classes, classes)
        confusion = confusion + counts if len(confusion) else counts
    return confusion


def autocast(config: TrainConfig, device: torch.device) -> AbstractContextManager[Any]:
    """The mixed-precision context of a run, inactive without `amp`."""
    return torch.autocast(device.type, dtype=getattr(torch, config.amp_dtype), enabled=config.amp)
