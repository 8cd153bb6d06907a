"""The training loop: on one process or many, from the first update or any later one, to the same bits."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Protocol

import torch
from torch import nn

from ..core.seeds import seeded
from ..core.tied import factors_formed_once
from .compiled import compiled, forward
from .distributed import ProcessGroup, parallel, sync_statistics
from .evaluation import evaluate
from .hooks import Hooks, refuse_unreached
from .objective import Objective, classification
from .optim import draws_numbers
from .order import Batch, Update
from .prefetch import Prefetcher
from .signals import Interrupted, StopSignals
from .state import State

_MAX_OVERFLOWS = 30  # a scale of 65536 is below 1e-4 by then: it is not the scale


class Updates(Protocol):
    """Training loader: the number of updates of an epoch as its `len`, and an epoch's updates from a given one on."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]: ...


class Logger(Protocol):
    """Logger of the training loop: a run's Log, or a clock, which does without the libraries of that."""

    def start(self, update: int) -> None: ...

    def inputs(self, inputs: Any) -> None: ...

    def step(self, update: int, examples: int, values: Mapping[str, float]) -> float: ...  # the seconds that it took

    def epoch(self, rows: Sequence[Mapping[str, Any]], *, per_second: float) -> None: ...


class NotFinite(FloatingPointError):
    """A loss or gradient that is not finite; `indices` are those of the update's examples in the data set."""

    def __init__(self, message: str, indices: Sequence[int]) -> None:
        super().__init__(message)
        self.indices = list(indices)


def fit(
    state: State,
    train: Updates,
    val: Iterable[Batch] | None,
    *,
    prepare: Callable[[Batch], Batch],
    log: Logger,
    objective: Objective | None = None,
    mix: Callable[[Batch], Batch] = lambda batch: batch,
    save: Callable[[State], None] = lambda state: None,
    stop: StopSignals | None = None,
    world: ProcessGroup | None = None,
) -> None:
    """Trains from where the state stands to the end; afterwards the model is the chosen one.

    `loss = sum of the losses / examples of the update`, over batches and processes; random numbers of update u in
    process k are a function of (seed, u, k).

    Args:
        objective: None is a classification with the smoothing of the configuration.
        val: validation batches of this process, or None.
        prepare: moves a batch to the device and normalises it there.
        mix: batch augmentation in training, such as mixup; may return targets as probabilities (B, C).
        save: called after every epoch and every `checkpoint_interval` updates, and before stopping.
        stop: looked at after each update.

    Raises:
        ValueError: a branch that gets no gradient in the first update.
        NotFinite: the loss or the gradient is not finite; no update is made. (A scaler that finds a gradient of
            float16 that is not finite skips the update itself, up to 30 times in a row.)
        Interrupted: `stop` has noted a signal; the state was saved.
    """
    config, progress = state.config, state.progress
    world, stop = world or ProcessGroup(), stop or StopSignals()
    objective = objective or classification(smoothing=config.smoothing)
    model = compiled(state.model, config)
    state.model.train()
    runner = parallel(model, world, state.device)
    hooks = Hooks((config.method, state.averages), seed=config.seed, devices=state.device.type != "cpu")
    while True:
        if state.epochs_done > len(progress.rows):  # also where a run goes on that stopped while evaluating
            try:
                _close_epoch(state, model, val, objective, prepare=prepare, log=log, stop=stop, world=world)
            finally:
                save(state)
        if state.is_done:
            break
        state.model.train()
        log.start(progress.update)
        updates = Prefetcher(train.epoch(*divmod(progress.update, state.updates_per_epoch)))
        for update in updates:
            if progress.update == 0:
                log.inputs(update.batches[0][0])
            values, asked = _step(
                state,
                runner,
                update,
                objective,
                hooks=hooks,
                prepare=prepare,
                mix=mix,
                stop=stop,
                world=world,
                meanwhile=updates.fetch,
            )
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
    state: State,
    runner: Any,
    update: Update,
    objective: Objective,
    *,
    hooks: Hooks,
    prepare: Callable[[Batch], Batch],
    mix: Callable[[Batch], Batch],
    stop: StopSignals,
    world: ProcessGroup,
    meanwhile: Callable[[], None],
) -> tuple[dict[str, float], bool]:
    """One step of the optimizer: what is logged of it, and whether any process was asked to stop.

    `meanwhile` is called when the device has all its work, before it is waited for.
    """
    config, progress, scaler = state.config, state.progress, state.scaler
    loss_sum, right = (torch.zeros((), device=state.device) for _ in range(2))
    gpu = state.device.type != "cpu"
    state.optimizer.zero_grad(set_to_none=True)
    with seeded("update", config.seed, progress.update, world.rank, devices=gpu), factors_formed_once():
        for i, batch in enumerate(update.batches):
            inputs, targets = mix(prepare(batch))
            last = i == len(update.batches) - 1
            # gradients are averaged over the processes once per update, in the backward pass of the last batch
            with nullcontext() if last or world.size == 1 else runner.no_sync():
                outputs = forward(runner, inputs, config)
                loss = objective.loss(outputs, targets)
                for value in hooks.losses(lambda again: forward(runner, again, config), inputs, outputs, targets):
                    loss = loss + value
                loss_sum += loss.detach()
                # DistributedDataParallel takes the mean over the processes: times their number it is the sum
                loss = loss * (world.size / update.size)
                for value in hooks.penalties(state.model) if last else ():  # alike in all processes
                    loss = loss + value / update.size
                    loss_sum += value.detach() / world.size
                scaler.scale(loss).backward()
            right += objective.right(outputs.detach(), targets)
    if progress.update == 0:
        refuse_unreached(state.model)
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
        hooks.after_backward(state.model, progress.update, state.updates)
        # an optimizer that draws random numbers draws the same ones in all processes, and after a resume
        drawing = draws_numbers(state.optimizer)
        with seeded("optimizer", config.seed, progress.update, devices=gpu) if drawing else nullcontext():
            scaler.step(state.optimizer)
    scaler.update()
    hooks.after_step(state.model, progress.update, state.updates)
    progress.update += 1
    state.set_rate()
    if finite:
        progress.add(loss=total, right=correct, seen=update.size, norm=length)
    return values, asked > 0


def _close_epoch(
    state: State,
    model: nn.Module,
    val: Iterable[Batch] | None,
    objective: Objective,
    *,
    prepare: Callable[[Batch], Batch],
    log: Logger,
    stop: StopSignals,
    world: ProcessGroup,
) -> None:
    """Evaluates on val where it is due, and adds a row to the table."""
    config, progress = state.config, state.progress
    sync_statistics(state.model, world)
    row: dict[str, Any] = {"epoch": state.epochs_done, "update": progress.update, **progress.means()}
    if not objective.counts_right:
        del row["train_accuracy"]
    if val is not None:
        row |= {f"val_{name}": None for name in objective.names}
        if state.epochs_done % config.val_interval == 0 or progress.update == state.updates:
            with state.averaged():
                accumulated = evaluate(
                    model, val, prepare=prepare, config=config, objective=objective, world=world, stop=stop
                )
            scores = objective.scores(accumulated, val)
            row |= {f"val_{name}": scores[name] for name in objective.names}
            state.keep_best(scores[objective.names[0]])
    progress.start_epoch()
    progress.rows.append(row)
    log.epoch(progress.rows, per_second=progress.examples / progress.seconds)
