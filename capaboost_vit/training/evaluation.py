"""Outputs of a model on held-out batches, counted or kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..core.tied import factors_formed_once
from .compiled import answer
from .config import RunConfig
from .distributed import World
from .objective import Classification, Objective
from .stop import Interrupted, Stop

Batch = tuple[Any, Tensor]  # inputs, targets (B, ...)


@torch.inference_mode()
@factors_formed_once()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Batch], Batch],
    config: RunConfig,
    objective: Objective | None = None,
    world: World | None = None,
    stop: Stop | None = None,
    also: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """What the objective's tally finds, over all processes: for a classification the confusion matrix (C, C), int64.

    Of that the trace is the number of right answers, the sum that of all, each example once. Leaves the model in
    evaluation mode. With the tokens of a whole batch the layers are computed with W + dW, as those of a merged model.

    Args:
        objective: None is a classification.
        also: called with the outputs and targets of each batch.

    Raises:
        Interrupted: `stop` has noted a signal (looked at only where there is one process).
    """
    model.eval()
    world = world or World()
    tally = (objective or Classification()).tally(batches)
    for batch in batches:
        inputs, targets = prepare(batch)
        outputs = answer(model, inputs, config)
        tally.add(outputs, targets)
        if also is not None:
            also(outputs, targets)
        if stop and stop.number and world.size == 1:
            raise Interrupted(stop.number, "stopped while evaluating")
    return tally.result(world)
