"""What the hooks of a method are given by the training loop, and what they give it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Counts = Mapping[str, tuple[float, int]]  # by name a sum, and of how many


@dataclass(frozen=True)
class Pass:
    """One more pass of a model that is trained, `forward(inputs)`; the loss is that of the run, a sum over examples."""

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    outputs: Callable[[Any], Tensor]

    def __call__(self, inputs: Any) -> Tensor:
        return self.outputs(inputs)


@dataclass(frozen=True)
class Stage:
    """A piece of work before the first update: its name for the log, and a function that does it.

    It runs once, in a fresh run; what it changes has to be values of parameters and buffers, which checkpoints hold.

    `updates`: so many of training come before `run`, from the model as it is then, as those of the run itself but for
    an optimizer and a schedule of their own.
    """

    title: str
    run: Callable[[], None]
    updates: int = 0
