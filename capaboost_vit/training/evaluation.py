"""Evaluation: outputs of a model on held-out batches, accumulated."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from ..core.tied import factors_formed_once
from .compiled import forward
from .config import RunConfig
from .distributed import ProcessGroup
from .objective import Objective, classification
from .order import Batch
from .signals import Interrupted, StopSignals


@torch.inference_mode()
@factors_formed_once()
def evaluate(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    prepare: Callable[[Batch], Batch],
    config: RunConfig,
    objective: Objective | None = None,
    world: ProcessGroup | None = None,
    stop: StopSignals | None = None,
    also: Callable[[Tensor, Tensor], None] | None = None,
) -> Tensor:
    """The result of the objective's accumulator over all processes: of a classification the confusion matrix (C, C).

    Its trace is the number of right answers, its sum that of all, each example once. Leaves the model in
    evaluation mode. With the tokens of a whole batch the layers are computed with W + dW, as those of a merged model.

    Args:
        objective: None is a classification.
        also: called with the outputs and targets of each batch.

    Raises:
        Interrupted: `stop` has noted a signal (looked at only where there is one process).
    """
    model.eval()
    world = world or ProcessGroup()
    accumulator = (objective or classification()).accumulator(batches)
    for batch in batches:
        inputs, targets = prepare(batch)
        outputs = forward(model, inputs, config)
        accumulator.add(outputs, targets)
        if also is not None:
            also(outputs, targets)
        if stop and stop.number and world.size == 1:
            raise Interrupted(stop.number, "stopped while evaluating")
    return accumulator.result(world)
