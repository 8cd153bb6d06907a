"""The model as it is called: compiled or not, in mixed precision or not; and evaluation on held-out batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..core.tied import factors_formed_once
from .config import RunConfig
from .distributed import ProcessGroup
from .loader import Batch
from .objective import Objective, classification
from .signals import Interrupted, StopSignals


def forward(model: Any, inputs: Tensor | Mapping[str, Tensor], config: RunConfig) -> Tensor:
    """The model's logits, in mixed precision with `amp`.

    Start and end logits of a model for questions come as (B, 2, N), -inf where a text is filled up: else the loss of an
    example would depend on the longest one beside it.

    To torch.compile the size of the batch is a variable, and so is the length of texts: left to itself it would compile
    for the first size, and again for the last batch of an epoch, which is smaller. (A batch of one is compiled apart.)

    Args:
        inputs: images, or what a model of transformers is called with, by name, (B, N) each.
    """
    named = inputs if isinstance(inputs, Mapping) else {}
    first = next(iter(named.values())) if named else inputs
    assert isinstance(first, Tensor)
    if config.compile:
        for tensor in named.values():
            torch._dynamo.maybe_mark_dynamic(tensor, (0, 1))
        if not named:
            torch._dynamo.maybe_mark_dynamic(first, 0)
    dtype = getattr(torch, config.amp_dtype)
    with torch.autocast(first.device.type, dtype=dtype, enabled=config.amp):
        output = model(**named) if named else model(inputs)
    if not named:
        return output
    if "logits" in output:
        return output["logits"]
    spans = torch.stack([output["start_logits"], output["end_logits"]], 1)
    return spans.masked_fill(named["attention_mask"].unsqueeze(1) == 0, -torch.inf)


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
