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

_NAMES = ("penalty", "losses", "after_backward", "after_step")


class Hooks:
    """Calls the hooks that the given objects have; what none of them has costs nothing.

    Args:
        hooks: objects with any of `penalty`, `losses`, `after_backward` and `after_step`, as `Method` describes them.
        seed: of the run; random numbers of a hook are a function of (seed, update).
    """

    def __init__(self, hooks: Sequence[Any], *, seed: int, devices: bool) -> None:
        self.seed, self.devices = seed, devices
        self._by_name = {name: [getattr(hook, name) for hook in hooks if _has(hook, name)] for name in _NAMES}

    def added(self, name: str, *arguments: Any) -> list[Tensor]:
        """What `losses` adds to the loss of a batch, or `penalty` once to that of an update: sums over its examples."""
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
