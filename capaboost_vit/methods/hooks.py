"""What the training loop passes to the hooks of a method, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

Counts = Mapping[str, tuple[float, int]]  # by name a sum, and of how many


@dataclass(frozen=True)
class Pass:
    """Another forward pass of the model in training, `forward(inputs)`, for the hooks of a method.

    Attributes:
        model: the trained model.
        loss: loss of the run, `loss(outputs, targets)`, summed over the examples.
        outputs: the function that `forward(inputs)` calls.
    """

    model: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor]
    outputs: Callable[[Any], Tensor]

    def __call__(self, inputs: Any) -> Tensor:
        return self.outputs(inputs)


@dataclass(frozen=True)
class Stage:
    """Work before the first update, once in each new run.

    It may change only values of parameters and buffers, which checkpoints store.

    Attributes:
        title: name for the log.
        run: function that does the work.
        updates: number of training updates before `run`, from the current model; they are like those of the run, with
            an optimizer and a learning rate schedule of their own.
    """

    title: str
    run: Callable[[], None]
    updates: int = 0
