"""Training state: all that changes while a model is trained, saved and restored as one."""

from __future__ import annotations

import dataclasses
import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .checkpoint import CheckpointError, changing
from .config import RunConfig
from .hooks import Averages, put
from .optim import make_optimizer, make_schedule

_GIVEN = (
    "lr",
    "initial_lr",
    "weight_decay",
    "momentum",
    "eps",
    "fused",
)  # options of a group that no optimizer changes


@dataclass
class Progress:
    """How far a run is: JSON values only."""

    update: int = 0  # done so far; one that a gradient scaler has skipped counts
    rows: list[dict[str, Any]] = field(default_factory=list)  # of summary.csv
    # sums over the examples, and over the updates, of the epoch at hand
    loss: float = 0.0
    right: float = 0.0
    seen: int = 0
    norm: float = 0.0
    steps: int = 0
    # updates in a row that the gradient scaler has skipped; they are in no sum
    overflows: int = 0
    # validation
    best_score: float | None = None
    best_epoch: int | None = None
    stale: int = 0  # evaluations since the best one
    # speed, over the whole run
    seconds: float = 0.0
    examples: int = 0

    def add(self, *, loss: float, right: float, seen: int, norm: float) -> None:
        """Takes one update into the sums of the epoch."""
        self.loss, self.right, self.seen = self.loss + loss, self.right + right, self.seen + seen
        self.norm, self.steps = self.norm + norm, self.steps + 1

    def means(self) -> dict[str, float | None]:
        """Loss and accuracy (%) over the examples of the epoch, and the norm of the gradient over its updates.

        None where the gradient scaler has skipped every update.
        """
        return {
            "train_loss": self.loss / self.seen if self.steps else None,
            "train_accuracy": 100 * self.right / self.seen if self.steps else None,
            "grad_norm": self.norm / self.steps if self.steps else None,
        }

    def start_epoch(self) -> None:
        """Sets the sums of the epoch to zero."""
        self.loss, self.right, self.seen, self.norm, self.steps = 0.0, 0.0, 0, 0.0, 0


def _laid_out_as(weight: Tensor, value: Any) -> Any:
    """Memory format: the value with the strides of a weight of its shape; files have none, fused kernels need them."""
    if not isinstance(value, Tensor) or value.shape != weight.shape or value.stride() == weight.stride():
        return value
    return torch.empty_like(weight, dtype=value.dtype).copy_(value)


class State:
    """Model, optimizer, schedule, gradient scaler, averages and progress of one run.

    Dropout, drop path and the order of the data are functions of (seed, update), so no random state belongs to it.

    Args:
        model: on its device; what it leaves to be trained is trained.
        updates_per_epoch: steps of the optimizer in one epoch.

    Raises:
        ValueError: nothing to train, no training image, an unknown optimizer or schedule.
    """

    def __init__(self, model: nn.Module, config: RunConfig, updates_per_epoch: int) -> None:
        if updates_per_epoch == 0:
            raise ValueError(f"the training split has no {config.unit[:-1]}: look at --data")
        self.model, self.config, self.updates_per_epoch = model, config, updates_per_epoch
        self.updates = config.max_steps or config.epochs * updates_per_epoch
        self.optimizer = make_optimizer(model, config)
        self.schedule = make_schedule(self.optimizer, config, updates_per_epoch)
        self.device = self.trained()[0].device
        fp16 = config.amp and config.amp_dtype == "float16"
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=fp16)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = Averages(trained, config.model_ema_decay) if config.model_ema else None
        self.best: dict[str, Tensor] | None = None
        self.progress = Progress()
        self.set_rate()

    def trained(self) -> list[nn.Parameter]:
        """The parameters that the optimizer holds."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def set_rate(self) -> None:
        """Sets the learning rate of the next update."""
        if self.schedule is not None:
            self.schedule.step_update(self.progress.update)

    def rates(self, points: int = 400) -> list[tuple[float, float]]:
        """(epochs done, learning rate of the next update) over the updates so far, at about so many of them."""
        done, rates = self.progress.update, []
        for update in sorted({round(i * (done - 1) / points) for i in range(points + 1)} if done else ()):
            if self.schedule is not None:
                self.schedule.step_update(update)
            rates.append((update / self.updates_per_epoch, float(self.optimizer.param_groups[0]["lr"])))
        self.set_rate()
        return rates

    @property
    def epochs_done(self) -> int:
        """Epochs whose updates are done; the last may be cut short by `max_steps`."""
        full, begun = divmod(self.progress.update, self.updates_per_epoch)
        return full + (begun > 0 and self.progress.update >= self.updates)

    @property
    def is_done(self) -> bool:
        """Whether all updates are done, or `patience` evaluations have passed without a better one."""
        patience = self.config.patience
        return self.progress.update >= self.updates or (patience is not None and self.progress.stale >= patience)

    def averaged(self) -> AbstractContextManager[None]:
        """A block in which the model is the one to be evaluated: its averages, where there are any."""
        return self.averages.applied() if self.averages else nullcontext()

    def keep_best(self, score: float, *, lower: bool = False) -> None:
        """Notes a score on val, and keeps a copy of what is evaluated if it is the best so far.

        Args:
            lower: whether lower is better.
        """
        progress, best = self.progress, self.progress.best_score
        if math.isnan(score) or (best is not None and (score >= best if lower else score <= best)):
            progress.stale += 1
            return
        progress.best_score, progress.best_epoch, progress.stale = score, self.epochs_done, 0
        if self.config.select != "last":
            with self.averaged():
                self.best = {name: t.detach().clone() for name, t in changing(self.model).items()}

    def finish(self) -> None:
        """Makes the model the chosen one: the best on val, or the last (its averages, where there are any)."""
        if self.best is not None:
            put(changing(self.model), self.best)
        elif self.averages:
            put(self.averages.trained, self.averages.values)

    def pack(self) -> dict[str, Any]:
        """All of it, as a tree of JSON values and tensors."""
        return {
            "fixed": self._fixed(),
            "model": changing(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "averages": self.averages.values if self.averages else None,
            "best": self.best,
            "progress": dataclasses.asdict(self.progress),
        }

    def _fixed(self) -> dict[str, Any]:
        """What no run can change once it has begun: the optimizer has its state, epochs are counted in updates."""
        return {
            "--opt": self.config.opt.lower(),
            "the number of updates in an epoch": self.updates_per_epoch,
            "the score of --select": "best" if self.config.select == "last" else self.config.select,
        }

    def unpack(self, tree: dict[str, Any]) -> None:
        """Puts back what `pack` gave.

        Raises:
            CheckpointError: it is of another model or optimizer, of epochs of another length, of more updates than
                there are to be, without the best model that is to be kept, or it is no state at all.
        """
        try:
            self._unpack(tree)
        except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:  # anyone can make a SHA-256
            raise CheckpointError(f"the checkpoint holds no state of this run: {error!r}") from error

    def _unpack(self, tree: dict[str, Any]) -> None:
        progress, now = Progress(**tree["progress"]), self._fixed()
        # older releases noted less, and had one score
        for name, value in {"the score of --select": "best", **tree.get("fixed", {})}.items():
            if value != now[name]:
                raise CheckpointError(
                    f"{name} cannot change in a run: it was {value} and is now {now[name]}; take back what changed it, "
                    "or start anew in another --output"
                )
        if progress.update > self.updates:
            steps = self.config.max_steps
            asked = f"--epochs {self.config.epochs}" if steps is None else f"--max-steps {steps}"
            raise CheckpointError(
                f"{progress.update} updates are done, and {asked} is only {self.updates}: ask for more, or start anew "
                "in another --output"
            )
        keeps_best = self.config.select != "last"
        if keeps_best and tree["best"] is None and progress.best_score is not None:
            raise CheckpointError(
                f"--select {self.config.select}: the best model so far, of epoch {progress.best_epoch}, was not kept; "
                "say --select last"
            )
        live = changing(self.model)
        shapes, stored_shapes = ({(n, tuple(t.shape)) for n, t in model.items()} for model in (live, tree["model"]))
        if shapes != stored_shapes:
            raise CheckpointError(
                f"the checkpoint is of another model: {min(shapes ^ stored_shapes)[0]} differs; choose another --output"
            )
        put(live, tree["model"])
        configured = [{name: group[name] for name in _GIVEN if name in group} for group in self.optimizer.param_groups]
        stored = tree["optimizer"]["param_groups"]
        if len(stored) != len(configured):
            raise CheckpointError(
                "the checkpoint is of another optimizer, with other groups of weights: choose another --output"
            )
        # the options of the configuration win, as it may have been changed; they are put in before loading, as a fused
        # optimizer counts its steps on the device of the weights
        groups = [{**group, **options} for group, options in zip(stored, configured, strict=True)]
        self.optimizer.load_state_dict({**tree["optimizer"], "param_groups": groups})
        for weight in self.trained():
            for name, value in self.optimizer.state.get(weight, {}).items():
                self.optimizer.state[weight][name] = _laid_out_as(weight, value)
        if tree["scaler"]:  # it is empty where there was none
            self.scaler.load_state_dict(tree["scaler"])
        if self.averages and tree["averages"] is not None:
            put(self.averages.values, tree["averages"])
        elif self.averages:
            self.averages.restart()
        self.best = {n: t.to(self.device) for n, t in tree["best"].items()} if keeps_best and tree["best"] else None
        self.progress = progress
        self.set_rate()
