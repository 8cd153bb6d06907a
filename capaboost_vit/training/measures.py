"""What a method counts in the evaluations of a run: the means of its measures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from ..methods import Method, Pass
from ..methods.hooks import Counts
from .distributed import ProcessGroup
from .evaluation import forward
from .job import Job


class Measures:
    """The counts of an evaluation, of a method's modules and of its batches.

    Args:
        names: of the measures. counts: those of the modules, so far.
        count: of a batch, `Method.count`; None where the method has none.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        counts: Callable[[], Counts],
        count: Callable[[Any, Tensor, Tensor], Counts] | None,
        world: ProcessGroup,
    ) -> None:
        self.names, self.counts, self.count, self.world = names, counts, count, world
        self.parts: list[Counts] = []

    def add(self, inputs: Any, outputs: Tensor, targets: Tensor) -> None:
        """Counts a batch."""
        if self.count is not None:
            self.parts.append(self.count(inputs, outputs, targets))

    def means(self) -> dict[str, float]:
        """Of each measure, over all processes; NaN of nothing."""
        parts = [part for part in self.world.gather([*self.parts, self.counts()]) if part]
        found = {}
        for name in self.names:
            total, number = (sum(part[name][place] for part in parts) for place in (0, 1))
            found[name] = total / number if number else math.nan
        return found


@contextmanager
def measured(job: Job) -> Iterator[Measures]:
    """The measures of a job's method in the evaluation of the block."""
    method = job.config.method
    if method is None or not method.measures:
        yield Measures((), dict, None, job.world)
        return
    count, once_more = None, Pass(job.model, job.objective.loss, lambda inputs: forward(job.called, inputs, job.config))
    if type(method).count is not Method.count:

        def count(inputs: Any, outputs: Tensor, targets: Tensor) -> Counts:
            return method.count(once_more, inputs, outputs, targets)

    with method.counted(job.model) as counts:
        yield Measures(method.measures, counts, count, job.world)
