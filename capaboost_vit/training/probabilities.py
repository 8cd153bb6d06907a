"""Probabilities of held-out examples of classes: the logits that are kept, temperature, and all scores of a split."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .distributed import ProcessGroup
from .metrics import area_under_curve, calibration_error, class_table, confusion_scores, wilson_interval
from .objective import right_answers
from .task_table import task_table

_MOST = 2**26  # numbers that are kept: 256 MiB in float32
FEWEST = 100  # examples to find a temperature on: of fewer it is anything (0.08 was seen of 88, 0.3 of 6)
_COLDEST, _HOTTEST = 1e-3, 1e3  # bounds of the temperature
_ROWS = 2**20  # numbers that are computed with at once in float64


class Kept(NamedTuple):
    """Logits (E, C) and labels (E,) of every `step`-th example of a split, on the CPU."""

    logits: Tensor
    labels: Tensor
    step: int


class KeptLogits:
    """Keeps logits beside the confusion matrix, for scores that need probabilities.

    Of N examples and C classes all are kept as long as N x C is at most 2^26 (256 MiB); of more only those whose place
    in the split is a multiple of `step = ceil(N x C / 2^26)`, whatever the batches and processes. They stay on the
    device, which is not waited for, until the end.

    Args:
        indices: places in the split of this process's examples, in the order in which they come.
        total: N, over all processes.
    """

    def __init__(self, indices: Sequence[int], total: int, *, most: int = _MOST) -> None:
        self.indices, self.total, self.most = indices, total, most
        self.seen, self.step = 0, 1
        self.rows: list[Tensor] = []  # (e, C + 1): logits, label

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        """outputs (B, C), targets (B,); what stands in comes behind the last of `indices`."""
        self.step = math.ceil(self.total * outputs.shape[-1] / self.most)
        places = self.indices[self.seen : self.seen + len(outputs)]
        self.seen += len(outputs)
        rows = [row for row, place in enumerate(places) if place % self.step == 0]
        kept = torch.cat([outputs.float(), targets[:, None].float()], 1)  # labels are exact up to 2^24
        self.rows.append(kept if len(rows) == len(outputs) else kept[rows])

    def result(self, world: ProcessGroup) -> Kept:
        """Those of all processes, in the order of the split; (0, 0) of no batch."""
        rows = torch.cat(self.rows).cpu() if self.rows else torch.zeros(0, 1)
        places = world.gather([place for place in self.indices if place % self.step == 0])
        together = torch.cat(world.gather([rows]))[torch.tensor(places, dtype=torch.int64).argsort()]
        return Kept(together[:, :-1], together[:, -1].long(), self.step)


def fitted_temperature(logits: Tensor, labels: Tensor) -> float:
    """Temperature T that minimises the mean NLL of softmax(logits / T), logits (E, C), labels (E,), in float64.

    One number divides all logits, so that no prediction changes. NLL is convex in 1 / T; it is searched in
    [1/1000, 1000] by Brent's method (scipy) over log T, and given with four digits. T is 1 where there is no minimum:
    where all predictions are right, so that NLL only falls with T, or where they are worse than equal probabilities.
    Source: Guo et al., On calibration of modern neural networks, 2017.
    """
    from scipy.optimize import minimize_scalar

    if bool((logits.argmax(-1) == labels).all()):
        return 1.0
    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    found = minimize_scalar(
        lambda log: _nll(logits, labels, math.exp(log)), bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    at_an_end = min(found.x - low, high - found.x) < 1e-3
    return 1.0 if at_an_end else float(f"{math.exp(found.x):.4g}")


def classification_report(
    confusion: Tensor,
    kept: Kept,
    classes: Sequence[str],
    *,
    temperature: float = 1.0,
    tasks: Sequence[str] = (),
) -> dict[str, Any]:
    """All scores of a split of classes, as JSON takes them; shares are in per cent.

    `accuracy`, with `accuracy_low` and `accuracy_high` (95 % Wilson interval), `right` and `total`;
    `balanced_accuracy`; `macro_f1`; of probabilities `softmax(logits / temperature)` `auc` (None where there is none),
    `ece` (15 bins) and `nll` (mean of -log p(label), nats), with the `temperature`, and `probabilities_step` k where
    they are of every k-th example, see `KeptLogits`; `per_class`, rows of `class`, `precision`, `recall`, `f1` and
    `support`, of the classes that occur as a label or as a prediction; of several tasks `per_task`, their `task_table`.

    Args:
        confusion: sparse, (C, C). classes: their names; those beyond have their number.
        tasks: where there are several, the task of each class.
    """
    right, total = right_answers(confusion), int(confusion.sum())
    low, high = wilson_interval(right, total)
    probabilities = (kept.logits / temperature).softmax(-1)
    confidences, answers = probabilities.max(-1)
    names = [*classes, *(str(i) for i in range(len(classes), len(confusion)))]
    return {
        "accuracy": 100 * right / total,
        "accuracy_low": low,
        "accuracy_high": high,
        "right": right,
        "total": total,
        **confusion_scores(("balanced_accuracy", "macro_f1"), confusion),
        "auc": area_under_curve(probabilities, kept.labels),
        "ece": calibration_error(confidences, answers == kept.labels),
        "nll": _nll(kept.logits, kept.labels, temperature),
        "temperature": temperature,
        **({} if kept.step == 1 else {"probabilities_step": kept.step}),
        **({"per_task": task_table(confusion, tasks)} if tasks else {}),
        "per_class": class_table(confusion, names),
    }


def _nll(logits: Tensor, labels: Tensor, temperature: float) -> float:
    """Mean of -log softmax(logits / temperature)[label], in float64."""
    rows = max(1, _ROWS // logits.shape[-1])
    sums = [
        torch.nn.functional.cross_entropy(part.double() / temperature, asked, reduction="sum").item()
        for part, asked in zip(logits.split(rows), labels.split(rows), strict=True)
    ]
    return math.fsum(sums) / len(labels)
