"""Hooks: what is called around the updates of a run, the method's own and the moving averages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from ..core.inject import wrappers
from ..core.seeds import seeded
from ..methods import Method
from .job import Job


class Hooks:
    """Calls the hooks that the given objects have; what none of them has costs nothing.

    Args:
        hooks: objects with any of `penalty`, `losses`, `after_backward` and `after_step`, as `Method` describes them.
        seed: of the run; random numbers of a hook are a function of (seed, update).
    """

    def __init__(self, hooks: Sequence[Any], *, seed: int, devices: bool) -> None:
        self.seed, self.devices = seed, devices
        self._penalties, self._losses, self._after_backward, self._after_step = (
            [getattr(hook, name) for hook in hooks if _has(hook, name)]
            for name in ("penalty", "losses", "after_backward", "after_step")
        )

    def losses(self, forward: Callable[[Any], Tensor], inputs: Any, outputs: Tensor, targets: Tensor) -> list[Tensor]:
        """What is added to the loss of a batch: sums over its examples."""
        return [v for f in self._losses if (v := f(forward, inputs, outputs, targets)) is not None]

    def penalties(self, model: nn.Module) -> list[Tensor]:
        """What is added once to the loss of an update: sums over its examples."""
        return [v for f in self._penalties if (v := f(model)) is not None]

    def after_backward(self, model: nn.Module, update: int, updates: int) -> None:
        """In front of the optimizer's step; the same random numbers in all processes, whose gradients are the same."""
        self._call(self._after_backward, "after_backward", model, update, updates)

    def after_step(self, model: nn.Module, update: int, updates: int) -> None:
        """Behind the optimizer's step, also where a gradient scaler has skipped it."""
        self._call(self._after_step, "after_step", model, update, updates)

    def _call(self, hooks: list[Callable[..., None]], name: str, model: nn.Module, update: int, updates: int) -> None:
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


def run_stages(job: Job, say: Callable[[str], None]) -> None:
    """Does what the method wants done before the first update."""
    config, state = job.config, job.state
    stages = [] if config.method is None else list(config.method.stages(job))
    for number, stage in enumerate(stages):
        say(f"stage {number + 1} of {len(stages)}: {stage.title}")
        with seeded("stage", config.seed, number, devices=state.device.type != "cpu"):
            stage.run()
    if stages and state.averages:
        state.averages.restart()
