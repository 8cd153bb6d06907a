"""The real training loop on synthetic images: everything that a run is built from, and a listener with a clock."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..training.distributed import ProcessGroup
from ..training.loader import EvalLoader, TrainLoader
from ..training.state import State
from ..vision.build import build_data_config, build_model, build_transform
from ..vision.config import TrainConfig
from ..vision.data import Split
from ..vision.loader import Normalise, image_eval_loader, image_train_loader
from .loop_config import LoopWorkload
from .timing import Clock, HostClock, clock_for

_SHARED = [field.name for field in dataclasses.fields(LoopWorkload) if field.name not in ("batch_size", "budget")]
_PICTURES = 64  # different ones; the rest repeats them


@dataclass
class Run:
    """What `fit` and `evaluate` work with. `test` goes through its images once and keeps them."""

    state: State
    train: TrainLoader
    test: EvalLoader
    prepare: Normalise


def settings(workload: LoopWorkload, **options: Any) -> TrainConfig:
    """The configuration of a training run with this workload; `options` are those that it leaves open."""
    return TrainConfig(**{name: getattr(workload, name) for name in _SHARED}, **options)


def build_run(
    config: TrainConfig,
    device: torch.device,
    *,
    classes: int,
    images: int,
    test_images: int = 0,
    world: ProcessGroup | None = None,
) -> Run:
    """Builds a run as `capaboost train` does, but on noise: what is measured has no decoding of image files in it.

    Args:
        images, test_images: in the training split of all processes, and in the test.
    """
    world = world or ProcessGroup()
    torch.manual_seed(config.seed)
    model = build_model(config, num_classes=classes).to(device)
    image_config = build_data_config(config, model)
    transform = build_transform(image_config)
    _, height, width = image_config["input_size"]
    draw = np.random.default_rng(config.seed)
    pictures = draw.integers(0, 256, (_PICTURES, height, width, 3), dtype=np.uint8)
    train, test = (_split(pictures, count, classes) for count in (images, test_images))
    shared: dict[str, Any] = {"rank": world.rank, "world_size": world.size, "cache": config.cache, "device": device}
    updates = image_train_loader(
        train,
        transform,
        batch_size=config.batch_size,
        seed=config.seed,
        accumulation=config.grad_accum_steps,
        **shared,
    )
    return Run(
        state=State(model, config, len(updates)),
        train=updates,
        test=image_eval_loader(test, transform, batch_size=config.validation_batch_size, **shared),
        prepare=Normalise(image_config, device),
    )


def read_all(updates: TrainLoader) -> None:
    """Reads and keeps all images: what otherwise happens bit by bit, as a process has other images in each epoch."""
    for _ in updates.examples.batches([[(index, True) for index in range(len(updates.examples))]]):
        pass


def loop_clock(device: torch.device, threads: int) -> Clock:
    """Wall time on a GPU, as what the host does between the kernels is part of a run; on a CPU that of other suites."""
    return HostClock("wall time", time.perf_counter) if device.type == "cuda" else clock_for(device, threads)


class Repeated:
    """The batches of a small test set again and again, until so many images have come."""

    def __init__(self, batches: EvalLoader, images: int) -> None:
        self.batches, self.images = batches, images

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        left = self.images
        while left:
            for images, labels in self.batches:
                taken = min(left, len(labels))
                yield images[:taken], labels[:taken]
                left -= taken
                if not left:
                    break


class Laps:
    """In the place of a run's log: notes how long each update, evaluation and checkpoint takes.

    The loop has waited for the device when it reports an update, and again when it reports an epoch.

    Args:
        progress: told the number of updates that are done.

    Attributes:
        updates: (images, seconds) of each.
        evaluations: seconds between the last update of an epoch and its row in the table.
        checkpoints: seconds between that row and the next epoch; there is none after the last.
    """

    def __init__(self, clock: Clock, progress: Callable[[int], None] = lambda done: None) -> None:
        self.clock, self.progress, self.last = clock, progress, clock.mark()
        self.updates: list[tuple[int, float]] = []
        self.evaluations: list[float] = []
        self.checkpoints: list[float] = []

    def start(self, update: int) -> None:
        """An epoch begins; before the first one lies nothing that recurs."""
        seconds = self._lap()
        if update:
            self.checkpoints.append(seconds)

    def inputs(self, inputs: Tensor) -> None:
        """The first batch; it is not looked at."""

    def step(self, update: int, images: int, values: Mapping[str, float]) -> float:
        """An update is done; returns its seconds."""
        self.updates.append((images, self._lap()))
        self.progress(len(self.updates))
        return self.updates[-1][1]

    def epoch(self, rows: Sequence[Mapping[str, Any]], *, per_second: float) -> None:
        """An epoch is done, and so is its evaluation, if there is one."""
        self.evaluations.append(self._lap())

    def _lap(self) -> float:
        now = self.clock.mark()
        seconds, self.last = self.clock.between(self.last, now), now
        return seconds


def _split(pictures: np.ndarray, count: int, classes: int) -> Split:
    names = tuple(map(str, range(count)))
    return Split(names, tuple(i % classes for i in range(count)), partial(_picture, pictures))


def _picture(pictures: np.ndarray, name: str) -> Image.Image:
    return Image.fromarray(pictures[int(name) % len(pictures)])
