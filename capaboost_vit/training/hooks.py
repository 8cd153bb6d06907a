"""Hooks: what is called around the updates of a run, the method's own and the moving averages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..core.inject import wrappers
from ..core.seeds import seeded
from ..methods import Method

_NAMES = ("knowing", "penalty", "losses", "after_backward", "after_step")


class Hooks:
    """Calls the hooks that the given objects have; what none of them has costs nothing.

    Args:
        hooks: objects with any of `knowing`, `penalty`, `losses`, `after_backward` and `after_step`, as `Method`
            describes them.
        seed: of the run; random numbers of a hook are a function of (seed, update).
    """

    def __init__(self, hooks: Sequence[Any], *, seed: int, devices: bool) -> None:
        self.seed, self.devices = seed, devices
        self._by_name = {name: [getattr(hook, name) for hook in hooks if _has(hook, name)] for name in _NAMES}

    @contextmanager
    def knowing(self, model: nn.Module, targets: Tensor) -> Iterator[None]:
        """What the model may know of the targets of a batch within the block."""
        with ExitStack() as stack:
            for hook in self._by_name["knowing"]:
                stack.enter_context(hook(model, targets))
            yield

    def added(self, name: str, *arguments: Any) -> list[Tensor]:
        """What `losses` adds to the loss of a batch, a sum over its examples, or `penalty` to the mean of an update."""
        return [value for hook in self._by_name[name] if (value := hook(*arguments)) is not None]

    def call(self, name: str, model: nn.Module, update: int, updates: int) -> None:
        """Calls `after_backward` or `after_step`; the same random numbers in all processes, as the gradients are."""
        hooks = self._by_name[name]
        with seeded(name, self.seed, update, devices=self.devices) if hooks else nullcontext():
            for hook in hooks:
                hook(model, update, updates)


def _has(hook: Any, name: str) -> bool:
    """Whether an object defines a hook itself: the ones of `Method` do nothing."""
    return getattr(type(hook), name, None) not in (None, getattr(Method, name))


def refuse_unreached(model: nn.Module) -> None:
    """Raises ValueError if a wrapper's parameters are to be trained and none of them got a gradient.

    That is how a layer shows that the model never calls, or a wrapper whose addition has no part in the output.
    """
    for name, wrapper in wrappers(model):
        trained = [p for p in wrapper.trained() if p.requires_grad]
        if trained and all(p.grad is None for p in trained):
            raise ValueError(
                f"{wrapper.adds} at {name!r} gets no gradient: this {type(model).__name__} does not use the layer in "
                "training, so leave it out of the method's targets"
            )


class Averages:
    """`average <- decay * average + (1 - decay) * value` for the trained tensors alone: the frozen base has no copy.

    With warm-up the decay of update t is `min(decay, (1 + t) / (10 + t))`, as TensorFlow's, so that the start is soon
    forgotten.

    Args:
        trained: the live tensors by name.
    """

    def __init__(self, trained: Mapping[str, Tensor], decay: float) -> None:
        self.trained, self.decay = dict(trained), decay
        self.values: dict[str, Tensor] = {}
        self.restart()

    @torch.no_grad()
    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """A hook of the training loop: takes in the values behind an update, counted from 0."""
        count = update + 1
        weight = 1 - min(self.decay, (1 + count) / (10 + count))
        torch._foreach_lerp_(list(self.values.values()), list(self.trained.values()), weight)

    def restart(self) -> None:
        """The values of now are the averages, as where training begins."""
        self.values = {name: tensor.detach().clone() for name, tensor in self.trained.items()}

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The averages stand in the model for the block; after it the values are back, bit for bit."""
        before = {name: tensor.detach().clone() for name, tensor in self.trained.items()}
        put(self.trained, self.values)
        try:
            yield
        finally:
            put(self.trained, before)


@torch.no_grad()
def put(targets: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    """Copies values into live tensors of the same names."""
    for name, value in values.items():
        targets[name].copy_(value)
