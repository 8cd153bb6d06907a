"""Answers of a model on held-out batches, counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..core.tied import factors_formed_once
from .compiled import answer
from .config import TrainConfig
from .distributed import World
from .stop import Interrupted, Stop

Batch = tuple[Tensor, Tensor]  # inputs, targets (B,)


@torch.inference_mode()
@factors_formed_once()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Batch], Batch],
    config: TrainConfig,
    world: World | None = None,
    stop: Stop | None = None,
) -> Tensor:
    """Confusion matrix (C, C), int64: how often label i was answered with class j, each image once.

    Its trace is the number of right answers, its sum that of all, over all processes. Leaves the model in evaluation
    mode. With the tokens of a whole batch the layers are computed with W + dW, as those of a merged model are.

    Raises:
        Interrupted: `stop` has noted a signal (looked at only where there is one process).
    """
    model.eval()
    world = world or World()
    device = next(model.parameters()).device
    confusion = torch.zeros(0, 0, dtype=torch.int64, device=device)
    for batch in batches:
        inputs, targets = prepare(batch)
        logits = answer(model, inputs, config)
        classes = logits.shape[-1]
        if not len(confusion):
            confusion = confusion.new_zeros(classes, classes)
        # counted where it was computed, and nothing is waited for: neither a mask nor bincount could do that
        counts = (targets >= 0).long()
        confusion.view(-1).scatter_add_(0, (targets * classes + logits.argmax(-1)) * counts, counts)
        if stop and stop.number and world.size == 1:
            raise Interrupted(stop.number, "stopped while evaluating")
    return world.sum(confusion).cpu()
