"""One training run, from a configuration to a finished folder; started or resumed."""

from __future__ import annotations

import dataclasses
import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

from .interop.tracking import open_tracker
from .io.atomic import write_text
from .io.yaml import format_yaml
from .nlu.config import TextConfig, base_model, stages
from .training.config import RunConfig
from .training.distributed import (
    ProcessGroup,
    ProcessLost,
    broadcast,
    initialized,
    naming_lost,
    pick_device,
    torchrun_group,
)
from .training.folder import RunFolder
from .training.found import RECORD, find_options, is_open
from .training.job import Job, as_dict, run_identity, start_lines
from .training.log import Log, write_table
from .training.loop import NotFinite, fit
from .training.lr_search import SEARCH_FILES, find_rate, rate_without_search
from .training.machine import machine
from .training.result import finish_run
from .training.resume import earlier_options, is_changed, newest_state
from .training.signals import Interrupted, StopSignals
from .training.stages import run_stages
from .training.state import State
from .vision.config import TrainConfig

_TENSORS_PER_WEIGHT = 5  # of a checkpoint: the weight, two moments, the average, the best
_SPACE = 50_000_000  # bytes for logs and pictures


def train(config: RunConfig) -> dict[str, Any]:
    """Trains one model on images or texts as configured, writes the run folder, and returns the content of result.json.

    The folder contains `config.yaml` (resolved), `summary.csv` (a row per epoch), `tensorboard/`, `checkpoints/` (the
    last two), `status.json`, `adapter.safetensors` (after masked language modelling the complete model, in `model/`),
    `learning_curve.png`, `confusion_matrix.png` (for classes) and `result.json`. It keeps the model of the last epoch,
    or the best one on val; the test split is used once, at the end. With `resume` a run continues bit for bit from its
    newest checkpoint; a finished run is left as it is. Under torchrun all processes train one model, and the first one
    writes.

    Raises:
        FileExistsError: the folder holds files of a run, and neither `resume` nor `overwrite` is set.
        ValueError, TypeError, FileNotFoundError: a model, method, data set or file that does not exist or fit; a run to
            resume that was started with other options or data, or whose checkpoints are all damaged.
        OSError: the folder cannot be written, is full, or another process is running in it.
        FloatingPointError: loss or gradient are not finite; `bad_batch.json` names the examples.
        ProcessLost: another process has ended, or did not answer in time.
        Interrupted: SIGINT, SIGTERM or SIGUSR1 was received, and a checkpoint was written.
    """
    world = torchrun_group()
    if config.fsdp and world.size == 1:
        raise ValueError(
            "--fsdp shards weights over processes, and this is one: start them by torchrun --nproc-per-node 2 -m "
            "capaboost_vit.cli train ..., or leave it out"
        )
    device = pick_device(config.device, world.local_rank)
    # around all stages of a run, as processes cannot meet a second time
    with StopSignals() as stop, initialized(world, device, timeout=config.timeout):
        return _train(config, world, device, stop)


def _train(config: RunConfig, world: ProcessGroup, device: torch.device, stop: StopSignals) -> dict[str, Any]:
    """One run, behind the stages that come before it."""
    folder = RunFolder(Path(config.output))
    fresh = not (config.resume or config.overwrite)
    if fresh:
        folder.refuse_if_taken()
    if config.resume:
        config = dataclasses.replace(
            config, **broadcast(earlier_options(folder, config) if world.is_main else {}, world)
        )
    if isinstance(config, TextConfig):
        _pretrain(config, world, device, stop)
    # other processes may not see the folder
    result = broadcast(folder.result() if config.resume and world.is_main else None, world)
    if result is not None:
        before, now = (run_identity(values, type(config)) for values in (result["config"], as_dict(config)))
        if not is_changed(folder, before, now, config):
            if world.is_main and folder.status() != "finished":  # killed between its last two files
                folder.write_status("finished", result["updates"])
            return result
    job = build_job(rate_without_search(config), world, device)
    try:
        if world.is_main:
            folder.lock()
            if fresh:  # another run may have come and gone while the job was built
                folder.refuse_if_taken()
        if is_open(config.method):
            config = find_options(job, folder, config)
            job.close()
            job = build_job(rate_without_search(config), world, device)
        if config.lr == "auto":
            job = find_rate(job, folder, stop)
        return _run(job, folder, stop, finished=result is not None)
    finally:
        job.close()
        folder.unlock()


def build_job(config: RunConfig, world: ProcessGroup, device: torch.device) -> Job:
    """Builds everything but the folder: see `build_image_job` and `build_text_job`."""
    if isinstance(config, TextConfig):
        from .nlu.job import build_text_job

        return build_text_job(config, world, device)
    assert isinstance(config, TrainConfig)
    from .vision.job import build_image_job

    return build_image_job(config, world, device)


def _pretrain(config: TextConfig, world: ProcessGroup, device: torch.device, stop: StopSignals) -> None:
    """The stages of continued pretraining that a run on texts begins with, each a run of its own in a folder below."""
    before = stages(config)
    if before and not (config.resume and Path(base_model(config)).is_dir()):
        # a mistake in what comes later shows before the first one begins
        for stage in (dataclasses.replace(config, dapt_data=None, tapt_epochs=0), *before):
            alone = dataclasses.replace(stage, model=config.model, pretrained=config.pretrained)
            build_job(alone, world, device).close()
    for stage in before:
        try:
            _train(stage, world, device, stop)
        except Interrupted as stopped:
            what = str(stopped).partition(";")[0]
            raise Interrupted(
                stopped.number, f"{what} in {stage.output}; go on with the same command and --resume"
            ) from None


def _run(job: Job, folder: RunFolder, stop: StopSignals, *, finished: bool) -> dict[str, Any]:
    """Trains from the newest checkpoint or from the start; `finished`: it was finished before, with other options."""
    config, world, state = job.config, job.world, job.state
    notes: list[str] = []
    tree = None
    if world.is_main:
        tree = newest_state(job, folder, notes.append) if config.resume else None
        folder.need(3 * _TENSORS_PER_WEIGHT * sum(p.nbytes for p in state.trained()) + _SPACE)
    tree = broadcast(tree, world)
    if tree is not None:
        state.unpack(tree["state"])
        if finished and state.is_done:
            raise ValueError(
                f"{folder.path} is finished and has nothing left to train with other options: ask for more --epochs, "
                "or choose another --output"
            )
        if finished:
            notes.append("warning: the run was finished before: the test split is used once more")
    if world.is_main:
        if tree is None:
            folder.empty(but=() if config.overwrite else (*SEARCH_FILES, RECORD))
        write_text(folder.path / "config.yaml", format_yaml(as_dict(config)))
    log = Log(
        folder.path,
        updates=state.updates,
        interval=config.log_interval,
        unit=config.unit,
        kept=tree["events"] if tree else None,
        start=state.progress.update,
        active=world.is_main,
        trackers=open_tracker(config, folder, resumed=tree is not None) if world.is_main else (),
    )

    def save(state: State) -> None:
        if world.is_main:
            tree = {"state": state.pack(), "events": log.sizes(), "record": job.record}
            folder.checkpoints.save(state.progress.update, {**tree, "machine": machine(state.device, world)})
            folder.write_status("running", state.progress.update)

    with _status_written(job, folder, log, first_pid=broadcast(os.getpid(), world)):
        for line in (*start_lines(job), *notes):
            log.say(line)
        if tree is None:
            log.text("config", format_yaml(as_dict(config)))
            run_stages(job, log, stop)  # before the first checkpoint, so that a run that is killed in them begins anew
            save(state)  # before any update: the folder can be written, and there is room
        elif world.is_main:
            for name in ("bad_batch.json", "result.json", "summary.csv"):  # what lies behind the checkpoint
                (folder.path / name).unlink(missing_ok=True)
            if state.progress.rows:
                write_table(folder.path / "summary.csv", state.progress.rows)
            folder.write_status("running", state.progress.update)
        fit(job, log, save=save, stop=stop)
        result = finish_run(job, folder, log, stop)
        if not world.is_main:  # the others see it if the first one is lost before it has written all
            world.barrier(state.device)
    if world.is_main:
        world.barrier(state.device)
    return result


@contextmanager
def _status_written(job: Job, folder: RunFolder, log: Log, *, first_pid: int) -> Iterator[None]:
    """Status file: whatever ends the block ends the display and is written to status.json.

    By the first process, `first_pid`; what ends another one by whichever is the first to know.
    """
    progress, main = job.state.progress, job.world.is_main
    status, details = "failed", {}
    try:
        with naming_lost(job.world, job.config.timeout):
            yield
        status = "finished"
    except Interrupted as stopped:
        status = "preempted"
        raise Interrupted(stopped.number, f"{stopped}; go on with: {_command(job, folder)}") from None
    except NotFinite as error:
        details = {"error": str(error)}
        names = [job.names(index) for index in sorted(error.indices)]
        if main:
            folder.write_json("bad_batch.json", {**details, "update": progress.update + 1, job.config.unit: names})
        raise
    except Exception as error:
        details = {"error": " ".join(str(error).split())}
        main = main and not isinstance(error, ProcessLost)
        raise
    finally:
        # the first error, such as a full disk, is the one to raise, not what it causes here
        with nullcontext() if status == "finished" else suppress(OSError):
            log.close(status)
        with nullcontext() if status == "finished" else suppress(OSError):
            if main:
                folder.write_status(status, progress.update, **details)
            elif details:
                folder.write_failure(first_pid, details["error"])


def _command(job: Job, folder: RunFolder) -> str:
    """What to type to go on."""
    size = job.world.size
    program = "capaboost" if size == 1 else f"torchrun --nproc-per-node {size} -m capaboost_vit.cli"
    command = "train-text" if isinstance(job.config, TextConfig) else "train"
    return f"{program} {command} --config {shlex.quote(str(folder.path / 'config.yaml'))} --resume"
