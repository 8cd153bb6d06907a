"""One task of VTAB-1k in the real loop: a few rounds of it, or all of it, which is kept once it is done."""

from __future__ import annotations

import dataclasses
import gc
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..io.atomic import write_text
from ..study.suites.vtab1k import Vtab
from ..training.checkpoint import Checkpoints
from ..training.compiled import compiled
from ..training.evaluation import evaluate
from ..training.loop import fit
from ..training.state import State
from .loop import Laps, Repeated, Run, build_run, settings
from .loop_config import VtabTimeConfig
from .machine import machine
from .speed import Say
from .timing import Budget, Clock

PARTS = ("training", "test", "checkpoints", "building")

# options in which two calls may differ whose tasks make one result
_FREE = ("output", "budget", "tasks", "updates", "warmup", "repetitions", "starts")


def train_task(
    config: VtabTimeConfig,
    task: Vtab,
    device: torch.device,
    clock: Clock,
    *,
    epochs: int,
    images: int,
    evaluated: bool,
    progress: Callable[[int], None],
) -> tuple[float, Run, Laps]:
    """Builds a task and trains it, with a checkpoint after each epoch; returns the seconds of building, run and laps.

    Args:
        images: of the training split.
        evaluated: on the batches of the test, after each epoch.
        progress: told the number of updates that are done.
    """
    gc.collect()
    if config.compile and config.num_classes is None:
        torch.compiler.reset()  # heads of all sizes would be more compilations of a model than torch allows
    begin = clock.mark()
    options = settings(
        config,
        epochs=epochs,
        batch_size=config.batch_size,
        validation_batch_size=config.validation_batch_size,
        num_classes=config.num_classes,
    )
    pool = config.test_batches * config.validation_batch_size
    run = build_run(options, device, classes=task.classes, images=images, test_images=pool)
    clock.settle()
    building = clock.between(begin, clock.mark())
    folder = Path(config.output).parent  # on the disk of the result
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as place:
        checkpoints = Checkpoints(Path(place))

        def save(state: State) -> None:
            checkpoints.save(state.progress.update, {"state": state.pack()})

        laps = Laps(clock, progress)
        val = run.test if evaluated else None
        fit(run.state, run.train, val, prepare=run.prepare, log=laps, save=save)
    return building, run, laps


def run_tasks(
    config: VtabTimeConfig, tasks: Sequence[Vtab], device: torch.device, clock: Clock, say: Say, budget: Budget
) -> dict[str, Any]:
    """Every task with all its updates and its whole test; those that the folder beside the result holds are taken.

    Returns:
        `tasks`: seconds by part of each, `total` included; `left_out`: names for which the budget left no time.

    Raises:
        ValueError: one of them was measured with other options, on another device or with other versions.
    """
    same = _what_is_measured(config, device)
    paths = {task: tasks_folder(config) / f"{task.name}.json" for task in tasks}
    earlier = {task: _earlier(path, same) for task, path in paths.items()}
    found: dict[str, Any] = {}
    left_out = []
    for i, (task, path) in enumerate(paths.items()):
        done = earlier[task]
        if done is None and budget.left() <= 0:
            left_out.append(task.name)
            continue
        if done is None:
            done = _run_task(config, task, device, clock, say, title=f"{task.name}, {i + 1} of {len(tasks)}")
            write_text(path, json.dumps({"of": same, **done}, indent=1) + "\n")
        found[task.name] = done
    return {"tasks": found, "left_out": left_out}


def tasks_folder(config: VtabTimeConfig) -> Path:
    """Where the tasks' results lie: beside the result file."""
    return Path(config.output).with_suffix("")


def _run_task(
    config: VtabTimeConfig, task: Vtab, device: torch.device, clock: Clock, say: Say, title: str
) -> dict[str, Any]:
    say(title)
    begin = clock.mark()
    building, run, laps = train_task(
        config,
        task,
        device,
        clock,
        epochs=config.epochs,
        images=config.train_images,
        evaluated=False,
        progress=lambda done: say(f"{title}: round {done}"),
    )
    trained = clock.mark()
    # as it comes from training, not merged; what is compiled is compiled for the test too
    model = compiled(run.state.model, run.state.config)
    test = Repeated(run.test, task.test_images)
    confusion = evaluate(model, test, prepare=run.prepare, config=run.state.config)
    end = clock.mark()
    checkpoints = sum(laps.checkpoints)
    return {
        "updates": len(laps.updates),
        "test_images": int(confusion.sum()),
        "building": building,
        "training": clock.between(begin, trained) - building - checkpoints,
        "checkpoints": checkpoints,
        "test": clock.between(trained, end),
        "total": clock.between(begin, end),
    }


def _what_is_measured(config: VtabTimeConfig, device: torch.device) -> dict[str, Any]:
    """What the results of all tasks must have in common."""
    options = {name: value for name, value in dataclasses.asdict(config).items() if name not in _FREE}
    found = machine()
    where = found["gpu"]["name"] if device.type == "cuda" else found["cpu"]
    return {**options, "device": f"{device.type}: {where}", "versions": found["versions"]}


def _earlier(path: Path, same: dict[str, Any]) -> dict[str, Any] | None:
    """What an earlier call has found, if it was the same that was measured."""
    if not path.exists():
        return None
    found: dict[str, Any] = json.loads(path.read_text())
    before = found.pop("of")
    changed = [name for name in same if before.get(name) != same[name]]
    if changed:
        raise ValueError(
            f"{path} was measured otherwise ({', '.join(changed)}): move {path.parent} away, or say another --output"
        )
    return found
