"""Frozen front: what stands before the first trained place of a model, computed once per example and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .cache_size import room_for
from .config import RunConfig
from .evaluation import mixed_precision
from .loader import Batch, Examples, Part
from .signals import Interrupted, StopSignals


@dataclass(frozen=True)
class Divided:
    """A model divided before its first trained place: `model(inputs) = rest(front(inputs))`.

    Args:
        front: inputs of a batch to what enters the rest, in evaluation mode; nothing in it is trained or random.
        rest: a module that shares its parameters with the model.
        rows: a batch of what the front gives as one tensor per example, those of padding left out.
        batch: the other way round.
        what: what is in front, in words.
    """

    front: Callable[[Any], Any]
    rest: nn.Module
    rows: Callable[[Any], Sequence[Tensor]]
    batch: Callable[[Sequence[Tensor]], Any]
    what: str

    def compute(self, inputs: Any, config: Any) -> Any:
        """What the front makes of a batch's inputs, without a gradient, in the `mixed_precision` of a configuration."""
        first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
        # no inference mode, also within an evaluation: training could not use such tensors
        with torch.inference_mode(False), torch.no_grad(), mixed_precision(config, first.device):
            return self.front(inputs)


class Whole(nn.Module):
    """A divided model put together again, whose front stays in evaluation mode and has no gradients."""

    def __init__(self, divided: Divided) -> None:
        super().__init__()
        self.front = divided.front  # no child: `train` must not reach it
        self.rest = divided.rest

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with torch.no_grad():
            inputs = self.front(kwargs or args[0])
        return self.rest(**inputs) if isinstance(inputs, dict) else self.rest(inputs)


class FrontExamples:
    """Examples whose inputs are what the frozen front makes of them: kept where there is room, else computed each time.

    What is kept was computed in one pass in an order of its own, whatever order it is asked for in, so that a run which
    goes on after an interruption has the same bits. An example is computed at its own width, whatever stands beside it,
    and not among too few others: a BLAS takes other ways, and rounds otherwise, for matrices of a few rows.

    Args:
        examples: those of a split.
        prepare: moves a batch of them to the device and normalises it there.
        asked: the examples that will be asked for; what is kept is a first part of them.
        cache: see `room_for`.
        widths: of each example, the tokens to which a text is filled up; None: all are alike.
        least: examples that are computed together at least.
    """

    def __init__(
        self,
        examples: Examples,
        divided: Divided,
        *,
        prepare: Callable[[Batch], Batch],
        config: RunConfig,
        asked: Sequence[int],
        cache: str,
        device: torch.device,
        widths: Sequence[int] | None = None,
        least: int = 1,
    ) -> None:
        self.examples, self.divided, self.prepare, self.config = examples, divided, prepare, config
        self.cache, self.device, self.widths, self.least = cache, device, widths, least
        self.asked = [*asked] if widths is None else sorted(asked, key=lambda index: (-widths[index], index))
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}  # by index: what enters the rest, and the target
        self.filled = cache == "none"
        self.first_inputs: Any = None  # of the first batch that was computed, as they came

    def __len__(self) -> int:
        return len(self.examples)

    def batches(self, parts: Sequence[Part], *, epoch: int = 0) -> Iterator[Batch]:
        """A batch of activations and targets for each part."""
        self.fill()
        parts = [[(index % len(self), counts) for index, counts in part] for part in parts]  # nothing here is random
        missing = [[example for example in part if not self._has(example)] for part in parts]
        computed = self._computed([part for part in missing if part], epoch)
        for part, lacking in zip(parts, missing, strict=True):
            new = iter(next(computed) if lacking else ())
            rows = [self.kept[example[0]] if self._has(example) else next(new) for example in part]
            activations = [activation.to(self.device, non_blocking=True) for activation, _ in rows]
            yield self.divided.batch(activations), torch.stack([target for _, target in rows])

    def fill(self, say: Callable[[str], None] = lambda line: None, stop: StopSignals | None = None) -> None:
        """Computes what is to be kept, unless that was done.

        Raises Interrupted if `stop` has noted a signal.
        """
        if self.filled:
            return
        size, room, used = self.config.validation_batch_size, -1, 0
        place = self.device
        parts = [[(index, True) for index in self.asked[i : i + size]] for i in range(0, len(self.asked), size)]
        for part, rows in zip(parts, self._computed(parts, 0), strict=True):
            if room < 0:  # by the longest, which come first
                needed = max(activation.nbytes for activation, _ in rows) * len(self.asked)
                room, place = room_for(self.cache, needed, self.device)
                say(f"computing {self.divided.what} once for {len(self.asked)} {self.config.unit}")
            for (index, _), (activation, target) in zip(part, rows, strict=True):
                used += activation.nbytes
                if used <= room:
                    # a copy, as a view would keep the padding, and the batch, in memory
                    self.kept[index] = (activation.to(place, copy=True), target.clone())
            if stop and stop.number:
                raise Interrupted(
                    stop.number, f"stopped behind {len(self.kept)} {self.config.unit} of the frozen front"
                )
            if used > room:
                say(f"there is room for {len(self.kept)} of {len(self.asked)}, see --cache; the others each time")
                break
        self.filled = True

    def read_once(self) -> None:
        """Passed on."""
        self.examples.read_once()

    def close(self) -> None:
        """Ends the processes that read the examples."""
        self.examples.close()

    def _has(self, example: tuple[int, bool]) -> bool:
        """Whether it is kept: one that only stands in is not, as its target differs."""
        index, counts = example
        return counts and index in self.kept

    def _computed(self, parts: Sequence[Part], epoch: int) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """What enters the rest, and the target, of the examples of each part, computed width by width."""
        places = [self._by_width(part) for part in parts]
        alike = [[part[i] for i in group] for part, groups in zip(parts, places, strict=True) for group in groups]
        alike = [group + group[-1:] * (self.least - len(group)) for group in alike]
        batches = iter(self.examples.batches(alike, epoch=epoch) if alike else ())
        for part, groups in zip(parts, places, strict=True):
            rows: dict[int, tuple[Tensor, Tensor]] = {}
            for group in groups:
                batch: Batch = next(batches)
                if self.first_inputs is None:
                    self.first_inputs = batch[0]
                inputs, targets = self.prepare(batch)
                activations = self.divided.rows(self.divided.compute(inputs, self.config))
                rows |= dict(zip(group, zip(activations, targets, strict=True), strict=False))
            yield [rows[i] for i in range(len(part))]

    def _by_width(self, part: Part) -> list[list[int]]:
        """The places in a part of examples of one width."""
        groups: dict[int, list[int]] = {}
        for place, (index, _) in enumerate(part):
            groups.setdefault(0 if self.widths is None else self.widths[index], []).append(place)
        return [*groups.values()]
