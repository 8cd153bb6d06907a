"""Short cuts: what a run computes instead of its model, to the same logits with less work."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..core.seeds import seeded
from ..core.wrapper import NoShortCut
from .cache_size import room_for
from .evaluation import forward
from .frozen_front import Divided, FrontExamples, Whole
from .job import Job

# rows of a matrix from which on MKL gives each of them the same bits, however many there are
_ROWS = 16
_NARROWEST = 8  # tokens to which texts are filled up at least


def take_short_cuts(
    job: Job,
    *,
    logits_only: Callable[[nn.Module], nn.Module],
    divide: Callable[[nn.Module], Divided | None],
    example: Callable[[], Any],
    random: bool,
    widths: Callable[[Any], Sequence[int]] | None = None,
) -> None:
    """Lets a job call what computes the logits of its model with less work; `--short-cuts false` or `--fsdp`: nothing.

    What is in front of the first trained place is in evaluation mode, and has no gradients. What it makes of an example
    that comes again, unless `random`, is computed once, and kept where there is room (`--cache`).

    Args:
        logits_only: makes a twin whose last block computes what the head reads, or raises NoShortCut.
        divide: finds the front.
        example: makes inputs, on which a division is tried: one that does not come to the same is not taken.
        widths: of the examples of a split, the tokens to which each is filled up; None: all are alike.
        random: whether training inputs are augmented or masked anew in each epoch.
    """
    config = job.config
    if not config.short_cuts or config.fsdp:  # whose hooks stand on the modules of the model itself
        return
    try:
        job.network, taken = logits_only(job.model), ["the last block for the tokens alone that the head reads"]
    except NoShortCut as reason:
        taken = [f"none of the last block, as {reason}"]
    divided = divide(job.called)
    activations = None if divided is None else _tried(job, divided, example)
    if divided is not None:
        mode = "in evaluation mode, as they are frozen" if activations is not None else "with all others, not apart"
        taken.append(f"{divided.what} in front {mode}")
    job.lines.append(f"short cuts: {'; '.join(taken)}")
    if divided is None or activations is None:
        return
    if random or job.state.updates <= len(job.train):
        job.network = Whole(divided)
        return
    job.network = divided.rest
    rows = divided.rows(activations)
    size = max(row.nbytes for row in rows)
    least = math.ceil(_ROWS / min(_NARROWEST, len(rows[0])))

    def behind_front(examples: Any, asked: Sequence[int], *, keep: bool) -> FrontExamples:
        cache = config.cache if keep else "none"
        if size * len(asked) <= room_for(cache, size * len(asked), job.state.device)[0]:
            examples.read_once()
        return FrontExamples(
            examples,
            divided,
            prepare=job.prepare,
            config=config,
            asked=asked,
            cache=cache,
            device=job.state.device,
            widths=widths(examples) if widths else None,
            least=least,
        )

    job.front = behind_front(job.train.examples, range(len(job.train.examples)), keep=True)
    job.train.examples = job.front
    for loader in (job.val, job.test, *job.extra_tests.values()):
        if loader is not None:
            loader.examples = behind_front(loader.examples, loader.indices, keep=loader is job.val)
    job.prepare = _prepared


def _tried(job: Job, divided: Divided, example: Callable[[], Any]) -> Any:
    """What enters the rest, of an example; None where front and rest do not come to what the network comes to."""
    try:
        with torch.no_grad(), seeded("try out", job.config.seed, devices=job.state.device.type != "cpu"):
            inputs = example()
            expected = forward(job.called.eval(), inputs, job.config)
            activations = divided.compute(inputs, job.config)
            outputs = forward(divided.rest.eval(), activations, job.config)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # of whatever class: a foreign model, whose forward pass is no `rest(front(inputs))`
        return None
    return activations if torch.allclose(outputs, expected, rtol=1e-4, atol=1e-4, equal_nan=True) else None


def _prepared(batch: Any) -> Any:
    """The batches come prepared."""
    return batch
