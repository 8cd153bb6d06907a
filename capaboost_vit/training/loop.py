"""The training loop: on one process or many, from the first update or any later one, to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from ..core.seeds import seeded
from ..core.tied import factors_formed_once
from ..methods import Pass
from .distributed import parallel, sync_statistics
from .evaluation import forward
from .hooks import Hooks, refuse_unreached
from .job import Job
from .loader import Prefetcher, Update
from .log import Log
from .measures import measured
from .objective import MeanLoss, selected_score
from .optim import draws_numbers
from .signals import Interrupted, StopSignals
from .state import State

_MAX_OVERFLOWS = 30  # a scale of 65536 is below 1e-4 by then: it is not the scale


class NotFinite(FloatingPointError):
    """A loss or gradient that is not finite; `indices` are those of the update's examples in the data set."""

    def __init__(self, message: str, indices: Sequence[int]) -> None:
        super().__init__(message)
        self.indices = list(indices)


def fit(job: Job, log: Log, *, save: Callable[[State], None], stop: StopSignals) -> None:
    """Trains a job's model from where its state stands to the end; afterwards the model is the chosen one.

    `loss = sum of the losses / examples of the update + penalties`, over batches and processes; random numbers of
    update u in process k are a function of (seed, u, k).

    Args:
        save: called after every epoch and every `checkpoint_interval` updates, and before stopping.
        stop: looked at after each update.

    Raises:
        ValueError: a branch that gets no gradient in the first update.
        NotFinite: the loss or the gradient is not finite; no update is made. (A scaler that finds a gradient of
            float16 that is not finite skips the update itself, up to 30 times in a row.)
        Interrupted: `stop` has noted a signal; the state was saved.
    """
    config, state = job.config, job.state
    progress = state.progress
    # shares all tensors with the one that is compiled
    model: Any = torch.compile(job.called, mode=config.compile_mode) if config.compile else job.called
    model.train()
    runner = parallel(model, job.world, state.device)
    hooks = Hooks((config.method, state.averages), seed=config.seed, devices=state.device.type != "cpu")
    while True:
        if state.epochs_done > len(progress.rows):  # also where a run goes on that stopped while evaluating
            try:
                _close_epoch(job, model, log, stop)
            finally:
                save(state)
        if state.is_done:
            break
        if job.front is not None:
            job.front.fill(log.say, stop if job.world.size == 1 else None)  # processes stop together, at an update
        model.train()
        log.start(progress.update)
        updates = Prefetcher(job.train.epoch(*divmod(progress.update, state.updates_per_epoch)))
        for update in updates:
            if progress.update == 0:
                log.inputs(update.batches[0][0] if job.front is None else job.front.first_inputs)
            values, asked = _step(job, runner, update, hooks=hooks, stop=stop, meanwhile=updates.fetch)
            progress.seconds += log.step(progress.update, update.size, values)
            progress.examples += update.size
            if asked:
                save(state)
                raise Interrupted(stop.number, f"stopped after update {progress.update}")
            if progress.update == state.updates:
                break
            if config.checkpoint_interval and progress.update % config.checkpoint_interval == 0:
                save(state)
    state.finish()


def _step(
    job: Job, runner: Any, update: Update, *, hooks: Hooks, stop: StopSignals, meanwhile: Callable[[], None]
) -> tuple[dict[str, float], bool]:
    """One step of the optimizer: what is logged of it, and whether any process was asked to stop.

    `meanwhile` is called when the device has all its work, before it is waited for.
    """
    config, world, objective, state = job.config, job.world, job.objective, job.state
    model, progress, scaler = job.model, state.progress, state.scaler
    loss_sum, right = (torch.zeros((), device=state.device) for _ in range(2))
    gpu = state.device.type != "cpu"
    once_more = Pass(model, objective.loss, lambda inputs: forward(runner, inputs, config))
    state.optimizer.zero_grad(set_to_none=True)
    with seeded("update", config.seed, progress.update, world.rank, devices=gpu), factors_formed_once():
        for i, batch in enumerate(update.batches):
            inputs, targets = job.mix(job.prepare(batch))
            last = i == len(update.batches) - 1
            # gradients are averaged over the processes once per update, in the backward pass of the last batch
            with nullcontext() if last or world.size == 1 else runner.no_sync(), hooks.knowing(model, targets):
                outputs = forward(runner, inputs, config)
                loss = torch.zeros((), device=state.device)
                if config.uses_labels():
                    loss = objective.loss(outputs, targets)
                for value in hooks.added("losses", once_more, inputs, outputs, targets):
                    loss = loss + value
                loss_sum += loss.detach()
                # DistributedDataParallel takes the mean over the processes: times their number it is the sum
                loss = loss * (world.size / update.size)
                for value in hooks.added("penalty", model) if last else ():  # alike in all processes
                    loss = loss + value
                    loss_sum += value.detach() * (update.size / world.size)
                scaler.scale(loss).backward()
            if objective.right is not None:
                right += objective.right(outputs.detach(), targets)
    if progress.update == 0:
        refuse_unreached(model)
    scaler.unscale_(state.optimizer)
    trained = state.trained()
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if config.clip_grad is not None:
        nn.utils.clip_grads_with_norm_(trained, config.clip_grad, norm)
    sums = world.sum(torch.stack([loss_sum, right, torch.full_like(right, stop.number > 0)]))
    meanwhile()  # the device has work in its queue: the CPU makes the next batches before it waits
    # the only wait for the device: one copy of four numbers
    total, correct, asked, length = torch.cat([sums, norm.detach().float().view(1)]).tolist()
    finite = math.isfinite(total) and math.isfinite(length)
    progress.overflows = 0 if finite else progress.overflows + 1
    if not finite and (not scaler.is_enabled() or progress.overflows > _MAX_OVERFLOWS):
        what = f"loss is {total / update.size}" if not math.isfinite(total) else "gradient is not finite"
        epoch, step = divmod(progress.update, state.updates_per_epoch)
        raise NotFinite(
            f"the {what} in epoch {epoch + 1}, step {step + 1}: try a smaller --lr, or --clip-grad 1",
            world.gather(update.indices),
        )
    values = {"loss": total / update.size, "grad_norm": length, "lr": state.optimizer.param_groups[0]["lr"]}
    if finite:
        hooks.call("after_backward", model, progress.update, state.updates)
        # an optimizer that draws random numbers draws the same ones in all processes, and after a resume
        drawing = draws_numbers(state.optimizer)
        with seeded("optimizer", config.seed, progress.update, devices=gpu) if drawing else nullcontext():
            scaler.step(state.optimizer)
        hooks.call("after_step", model, progress.update, state.updates)
        progress.add(loss=total, right=correct, seen=update.size, norm=length)
    scaler.update()
    progress.update += 1
    state.set_rate()
    return values, asked > 0


def _close_epoch(job: Job, model: nn.Module, log: Log, stop: StopSignals) -> None:
    """Evaluates on val where it is due, and adds a row to the table."""
    objective, state = job.objective, job.state
    progress = state.progress
    sync_statistics(job.model, job.world)
    held_out: dict[str, float] = {}  # loss and scores on val
    row: dict[str, Any] = {"epoch": state.epochs_done, "update": progress.update, **progress.means()}
    if objective.right is None:
        del row["train_accuracy"]
    if job.val is not None:
        if state.epochs_done % job.config.val_interval == 0 or progress.update == state.updates:
            mean_loss = MeanLoss(objective, getattr(job.val, "indices", None))
            with state.averaged(), measured(job) as measures:
                accumulated = job.evaluate(job.val, model=model, stop=stop, also=mean_loss.add, count=measures.add)
                held_out = measures.means()
            held_out |= {"loss": mean_loss.result(job.world), **objective.scores(accumulated, job.val)}
            score = held_out[selected_score(objective, job.config.select)]
            state.keep_best(score, lower=job.config.select == "val_loss")
        counted = job.config.method.measures if job.config.method else ()
        row |= {f"val_{name}": held_out.get(name) for name in ("loss", *objective.names, *counted)}
    progress.start_epoch()
    progress.rows.append(row)
    log.epoch(progress.rows, per_second=progress.examples / progress.seconds)
