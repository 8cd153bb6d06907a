"""The model as it is called: compiled or not, in mixed precision or not; evaluation on held-out batches; a try-out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..core.seeds import seeded
from ..core.sharded import is_sharded
from ..core.tied import factors_formed_once
from .config import RunConfig
from .distributed import ProcessGroup
from .hooks import refuse_unreached
from .loader import Batch
from .objective import Objective, classification
from .signals import Interrupted, StopSignals

_NAMED = 3  # examples that an error lists


def forward(model: Any, inputs: Tensor | Mapping[str, Tensor], config: RunConfig) -> Tensor:
    """The model's logits, in mixed precision with `amp`.

    Start and end logits of a model for questions come as (B, 2, N), -inf where a text is filled up: else the loss of an
    example would depend on the longest one beside it.

    To torch.compile the size of the batch is a variable, and so is the length of texts: left to itself it would compile
    for the first size, and again for the last batch of an epoch, which is smaller. (A batch of one is compiled apart.)

    Args:
        inputs: images, or what a model of transformers is called with, by name, (B, N) each (of choices (B, K, N)).
    """
    named = inputs if isinstance(inputs, Mapping) else {}
    first = next(iter(named.values())) if named else inputs
    assert isinstance(first, Tensor)
    if config.compile:
        for tensor in named.values():
            # (B, N), of multiple choice (B, K, N); what is floating has a width, (B, N, D)
            torch._dynamo.maybe_mark_dynamic(tensor, tuple(range(tensor.ndim - tensor.is_floating_point())))
        if not named:
            torch._dynamo.maybe_mark_dynamic(first, 0)
    with mixed_precision(config, first.device):
        output = model(**named) if named else model(inputs)
    if not named:
        return output
    if "logits" in output:
        return output["logits"]
    spans = torch.stack([output["start_logits"], output["end_logits"]], 1)
    return spans.masked_fill(named["attention_mask"].unsqueeze(1) == 0, -torch.inf)


def mixed_precision(config: Any, device: torch.device) -> torch.autocast:
    """Autocast as the options `amp` and `amp_dtype` of a configuration say."""
    return torch.autocast(device.type, dtype=getattr(torch, config.amp_dtype), enabled=config.amp)


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
    count: Callable[[Any, Tensor, Tensor], None] | None = None,
) -> Tensor:
    """The result of the objective's accumulator over all processes: of a classification the confusion matrix (C, C).

    It is sparse; its trace (`right_answers`) is the number of right answers, its sum that of all, each example once.
    Leaves the model in evaluation mode. With the tokens of a whole batch the layers are computed with W + dW, as those
    of a merged model.

    Args:
        objective: None is a classification.
        also: called with the outputs and targets of each batch. count: with its inputs, too.

    Raises:
        FloatingPointError: outputs that are not finite, in all processes alike: they are no answers.
        Interrupted: `stop` has noted a signal (looked at only where there is one process).
    """
    # weights that are gathered in inference mode could not be used in training
    with torch.no_grad() if is_sharded(model) else torch.inference_mode():
        model.eval()
        world = world or ProcessGroup()
        accumulator = (objective or classification()).accumulator(batches)
        broken: list[Tensor] = []
        for batch in batches:
            inputs, targets = prepare(batch)
            outputs = forward(model, inputs, config)
            broken.append(not_finite(outputs))
            accumulator.add(outputs, targets)
            if also is not None:
                also(outputs, targets)
            if count is not None:
                count(inputs, outputs, targets)
            if stop and stop.number and world.size == 1:
                raise Interrupted(stop.number, "stopped while evaluating")
        _refuse_broken(broken, batches, config.unit, world)
        return accumulator.result(world)


def not_finite(outputs: Tensor) -> Tensor:
    """Whether the outputs (B, ...) of each example hold NaN or an infinity, (B,), without waiting for the device.

    Of outputs (B, 2, N) of questions -inf is none: `forward` puts it where a text is filled up.
    """
    rows = outputs.detach().flatten(1)
    # both pass NaN on, and take no copy of the outputs, which may be those of each token and word
    highest, lowest = rows.amax(1), rows.amin(1)
    return ~(highest.isfinite() if outputs.ndim == 3 else highest.isfinite() & lowest.isfinite())


def refuse_outputs(names: Sequence[str], count: int, unit: str) -> NoReturn:
    """Raises FloatingPointError for the examples, `names` of all `count`, whose outputs are not finite."""
    listed = ", ".join(map(str, names[:_NAMED])) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")
    raise FloatingPointError(
        f"the model's outputs are not finite for {len(names)} of {count} {unit} ({listed}): its weights, or mean and "
        "std, are broken, or float16 is too narrow; where they come from training, train with a smaller --lr"
    )


def _refuse_broken(broken: Sequence[Tensor], batches: Any, unit: str, world: ProcessGroup) -> None:
    flags = torch.cat(list(broken)).tolist() if broken else []
    # of a list of batches nobody knows the places; behind this process's share come examples that only stand in
    places = getattr(batches, "indices", range(len(flags)))
    names = getattr(batches, "names", None)
    wrong = [place for place, flag in zip(places, flags, strict=False) if flag]
    if wrong := sorted(world.gather(wrong)):
        count = len(world.gather(places))
        refuse_outputs([f"number {place + 1}" if names is None else names[place] for place in wrong], count, unit)


def try_out(model: nn.Module, example: Callable[[], Any], config: RunConfig, *, hint: str = "") -> None:
    """One forward and backward pass in training mode, so that what the model refuses shows before a run begins.

    Leaves no gradient; buffers, the model's mode and the random state are as before.

    Args:
        example: makes inputs, of two examples as norms over a batch need them.
        hint: what to type instead, for the message.

    Raises:
        ValueError: the model cannot compute with these inputs, or does not reach a branch.
    """
    mode, buffers = model.training, {buffer: buffer.clone() for buffer in model.buffers()}
    device = next(model.parameters()).device
    shape = ""
    try:
        with seeded("try out", config.seed, devices=device.type != "cpu"):
            inputs = example()
            first = next(iter(inputs.values())) if isinstance(inputs, Mapping) else inputs
            shape = f" of shape {tuple(first.shape)}"
            forward(model.train(), inputs, config).float().nan_to_num().sum().backward()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # of whatever class: it is a foreign model's
        reason = " ".join((str(error) or type(error).__name__).split())
        raise ValueError(f"{config.model} cannot be trained on inputs{shape}: {reason}{hint}") from error
    finally:
        model.train(mode)
        for buffer, before in buffers.items():
            buffer.copy_(before)
    refuse_unreached(model)
    model.zero_grad(set_to_none=True)
