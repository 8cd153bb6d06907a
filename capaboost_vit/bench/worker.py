"""One of the processes that `capaboost bench processes` launches through torchrun: some updates of the real loop.

torchrun --nproc-per-node 2 -m capaboost_vit.bench.worker OPTIONS.json RESULT.json
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from ..io.atomic import write_text
from ..training.distributed import initialized, pick_device, torchrun_group
from ..training.loop import fit
from ..vision.config import TrainConfig
from .loop import Laps, build_run, read_all
from .timing import HostClock

_UPDATES = 8  # of an epoch, at most


def work(options: dict[str, Any], result: Path) -> None:
    """Trains so many updates on noise; the first process writes what it has measured.

    Args:
        options: `train` (those of TrainConfig, with `max_steps`), `classes`, `threads` (None leaves them).
    """
    world = torchrun_group()
    if options["threads"] is not None:
        torch.set_num_threads(options["threads"])
    config = TrainConfig(**options["train"])
    assert config.max_steps is not None
    device = pick_device(config.device, world.local_rank)
    with initialized(world, device):
        images = config.batch_size * min(_UPDATES, config.max_steps)
        run = build_run(config, device, classes=options["classes"], images=images, world=world)
        read_all(run.train)
        busy = [time.process_time()]
        laps = Laps(HostClock("wall time", time.perf_counter), lambda done: busy.append(time.process_time()))
        fit(run.state, run.train, None, prepare=run.prepare, log=laps, world=world)
    if world.is_main:
        found = {
            "device": device.type,
            "seconds": [seconds for _, seconds in laps.updates],
            "cpu_seconds": [end - begin for begin, end in pairwise(busy)],
            "trained_bytes": sum(p.nbytes for p in run.state.trained()),
        }
        write_text(result, json.dumps(found))


def main(arguments: Sequence[str]) -> None:
    """Reads the options from the first file, and writes the result to the second."""
    work(json.loads(Path(arguments[0]).read_text()), Path(arguments[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
