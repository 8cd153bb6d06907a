"""Objectives: the loss of training, the scores of evaluation, and the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .distributed import ProcessGroup
from .metrics import confusion_scores


class Accumulator(Protocol):
    """Accumulates a model's outputs on held-out batches into one tensor."""

    def add(self, outputs: Tensor, targets: Tensor) -> None: ...

    def result(self, world: ProcessGroup) -> Tensor: ...  # over all processes, on the CPU


@dataclass(frozen=True)
class Objective:
    """Objective: a loss to minimise, and scores.

    Args:
        names: of the scores; the best epoch is that of the highest value of the first.
        loss: from outputs and targets, the sum over the examples; padding labels add nothing.
        accumulator: makes a new one for an evaluation, from its batches.
        scores: by name, from the accumulated tensor and the batches.
        right: how many of the examples are predicted right; None for what is neither right nor wrong, such as a number.
        confusion: whether a confusion matrix is accumulated.
        report: all scores of a split, as JSON takes them, from the accumulated tensor and the batches; of classes see
            `classification_report`.
        plain_loss: the loss in evaluation, without what is there for training alone; None: the loss.
    """

    names: tuple[str, ...]
    loss: Callable[[Tensor, Tensor], Tensor]
    accumulator: Callable[[Any], Accumulator]
    scores: Callable[[Tensor, Any], dict[str, float]]
    right: Callable[[Tensor, Tensor], Tensor] | None = None
    confusion: bool = False
    report: Callable[[Tensor, Any], dict[str, Any]] | None = None
    plain_loss: Callable[[Tensor, Tensor], Tensor] | None = None


class MeanLoss:
    """Mean loss of held-out examples, `sum of plain_loss / examples`, kept beside what the objective accumulates.

    Args:
        indices: places of this process's examples in the split; None: every row that comes is an example.
    """

    def __init__(self, objective: Objective, indices: Sequence[int] | None = None) -> None:
        self.loss = objective.plain_loss or objective.loss
        self.indices, self.rows = indices, 0
        self.sums: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        self.sums.append(self.loss(outputs, targets).double())
        self.rows += len(outputs)

    def result(self, world: ProcessGroup) -> float:
        """Over all processes; NaN of no example."""
        counts = world.gather([self.rows if self.indices is None else len(self.indices)])
        sums = world.gather([torch.stack(self.sums).sum().item()] if self.sums else [])
        return math.fsum(sums) / sum(counts) if any(counts) else math.nan


class Confusion:
    """Confusion matrix (C, C), int64: how often label i was answered with class j; -1 is the padding label.

    It is sparse: of thousands of classes most cells are empty. Nothing is waited for before the end, when the cells of
    all examples, 8 bytes each, are counted.
    """

    def __init__(self) -> None:
        self.classes = 0
        self.cells: list[Tensor] = []

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, C), targets (B,)."""
        self.classes = outputs.shape[-1]
        cells = targets * self.classes + outputs.argmax(-1)
        self.cells.append(torch.where(targets >= 0, cells, -1))

    def result(self, world: ProcessGroup) -> Tensor:
        """The sum over all processes, coalesced; (0, 0) of no batch."""
        counted: list[list[int]] = []
        if self.cells:
            counted = torch.stack(torch.cat(self.cells).unique(return_counts=True), 1).tolist()
        counted = [pair for pair in world.gather(counted) if pair[0] >= 0]
        cells, counts = torch.tensor(counted, dtype=torch.int64).view(-1, 2).unbind(1)
        size = max(self.classes, 1)
        places, shape = torch.stack([cells // size, cells % size]), (self.classes, self.classes)
        return torch.sparse_coo_tensor(places, counts, shape, check_invariants=True).coalesce()


def right_answers(confusion: Tensor) -> int:
    """The trace of a confusion matrix."""
    label, answer = confusion.indices()
    return int(confusion.values()[label == answer].sum())


class Mistakes:
    """Top losses: the wrong answers with the largest cross-entropy, kept beside the confusion matrix.

    Nothing is waited for before the end: at most `keep` rows stay on the device.

    Answers that are no number are not among them. Places are exact up to 2^24 examples in a process.

    Args:
        indices: places in the split of this process's examples, in the order in which they come.
        keep: how many.
    """

    def __init__(self, indices: Sequence[int], world: ProcessGroup, *, keep: int = 24) -> None:
        self.indices, self.world, self.keep = indices, world, keep
        self.seen = 0
        self.rows: Tensor | None = None  # (keep, 6): loss, position, label, answer, probabilities of both

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, C), targets (B,); labels of -1 count for nothing."""
        logs = outputs.float().log_softmax(-1)
        labels, answers = targets.clamp(min=0), outputs.argmax(-1)
        of_label, of_answer = (logs.gather(1, index[:, None])[:, 0] for index in (labels, answers))
        wrong = (targets >= 0) & (answers != labels)
        losses = torch.where(wrong, -of_label, -torch.inf).nan_to_num(
            nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf
        )
        places = torch.arange(self.seen, self.seen + len(targets), device=outputs.device)
        batch_rows = torch.stack([losses, places, labels, answers, of_label.exp(), of_answer.exp()], 1)
        self.seen += len(targets)
        rows = batch_rows if self.rows is None else torch.cat([self.rows, batch_rows])
        self.rows = rows[rows[:, 0].argsort(descending=True, stable=True)[: self.keep]]

    def result(self) -> list[dict[str, Any]]:
        """Those of all processes, the worst first, of equals the one that comes first in the split.

        `place` in the split, `label`, `answer`, and the probabilities of both.
        """
        mistakes = [
            {
                "loss": loss,
                "place": self.indices[int(position)],
                "label": int(label),
                "answer": int(answer),
                "label_probability": of_label,
                "answer_probability": of_answer,
            }
            for loss, position, label, answer, of_label, of_answer in ([] if self.rows is None else self.rows.tolist())
            if loss > -torch.inf
        ]
        worst = sorted(self.world.gather(mistakes), key=lambda row: (-row["loss"], row["place"]))[: self.keep]
        return [{name: value for name, value in row.items() if name != "loss"} for row in worst]


def accuracy(confusion: Tensor) -> dict[str, float]:
    """The share of right answers in per cent."""
    return {"accuracy": 100 * right_answers(confusion) / int(confusion.sum())}


def classification(
    *,
    smoothing: float = 0.0,
    score: Callable[[Tensor], dict[str, float]] = accuracy,
    names: tuple[str, ...] = ("accuracy",),
    weights: Tensor | None = None,
) -> Objective:
    """Cross-entropy of logits (B, C) with labels (B,), of which -1 is padding, or with probabilities (B, C).

    Args:
        smoothing: label smoothing, in training.
        score: scores by name from the confusion matrix.
        names: of the scores.
        weights: (C,) of the classes in the loss of training, `-sum_c w_c t_c log p_c` of targets t after smoothing.
    """

    def loss(
        outputs: Tensor, targets: Tensor, smoothing: float = smoothing, weights: Tensor | None = weights
    ) -> Tensor:
        padding = -1 if targets.ndim == 1 else -100  # probabilities have none, and torch allows no -1 there
        return F.cross_entropy(
            outputs.float(), targets, weights, ignore_index=padding, reduction="sum", label_smoothing=smoothing
        )

    def right(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(-1) == (targets if targets.ndim == 1 else targets.argmax(-1))).sum()

    return Objective(
        names,
        loss,
        lambda _: Confusion(),
        lambda confusion, _: score(confusion),
        right,
        confusion=True,
        plain_loss=partial(loss, smoothing=0.0, weights=None),
    )


def selected_score(objective: Objective, select: str) -> str:
    """The name behind `val_` of what `--select` and `--patience` go by: `loss`, or a score."""
    return {"last": objective.names[0], "best": objective.names[0], "val_loss": "loss"}.get(select, select)


def with_selected(objective: Objective, select: str) -> Objective:
    """The objective, with the score that `--select` names among its own.

    Raises:
        ValueError: it has no such score.
    """
    name = selected_score(objective, select)
    if name in ("loss", *objective.names):
        return objective
    if not objective.confusion:
        raise ValueError(
            f"--select {select} is for one class per example, which this task has not: say --select last, best (by "
            f"{objective.names[0]}) or val_loss"
        )

    def scores(confusion: Tensor, batches: Any) -> dict[str, float]:
        return {**objective.scores(confusion, batches), **confusion_scores([name], confusion)}

    return replace(objective, names=(*objective.names, name), scores=scores)
