"""Which images are explained, and the lines below each: of classes, tags and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from .data.sheet import FAINT, INK
from .saved import Saved

_GREEN, _RED = "#17703f", "#b3261e"
_KEPT = 24  # as many as `Mistakes` of classes


@dataclass(frozen=True)
class Question:
    """An image by its place in a split, and what is asked about it.

    Args:
        label: the class's name, whether it has the tag, or the number; None where nobody knows.
        output: of the model, that is to be explained; None: the largest.
    """

    place: int
    label: Any = None
    output: int | None = None


def worst_outputs(saved: Saved, outputs: Tensor, targets: Tensor) -> list[Question]:
    """The worst mistakes of a model for tags or numbers, at most 24, the worst first.

    Of tags the wrong decisions (at a probability of 0.5) with the largest cross-entropy; of numbers the largest errors.

    Args:
        outputs, targets: logits and 0 and 1, (N, C), or standardised numbers, (N,); see `outputs_on`.
    """
    if saved.scale is not None:
        order = (outputs - targets).abs().argsort(descending=True, stable=True)[:_KEPT].tolist()
        numbers = saved.scale.back(targets).tolist()
        return [Question(place, numbers[place]) for place in order]
    losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
    wrong = (outputs.sigmoid() >= 0.5) != targets.bool()
    cells = wrong.nonzero()
    worst = cells[losses[wrong].argsort(descending=True, stable=True)[:_KEPT]].tolist()
    return [Question(place, bool(targets[place, tag]), tag) for place, tag in worst]


def answer_lines(
    saved: Saved, question: Question, answers: Tensor, names: Sequence[str], file: str
) -> tuple[tuple[str, str], ...]:
    """What the image is and what it is taken for, or what the model answers alone; its file. Each line with its colour.

    Args:
        answers: (C,), probabilities of classes or tags; (1,), a standardised number.
        names: of the classes or tags.
    """
    label, name = question.label, (Path(file).name, FAINT)
    if saved.scale is not None:
        number = f"{float(saved.scale.back(answers)):.6g}"
        return ((number, INK), name) if label is None else ((f"is {label:.6g}", _GREEN), (f"said {number}", _RED), name)
    if question.output is not None:
        tag = names[question.output]
        said = f"said yes  {_percent(answers[question.output])}"
        return (f"{tag}: yes" if label else f"{tag}: no", _GREEN), (said, _RED), name
    best, *others = answers.argsort(descending=True, stable=True).tolist()
    answer = f"{names[best]}  {_percent(answers[best])}"
    if label is not None:
        own = answers[names.index(label)] if label in names else None
        said = f"is {label}" + ("" if own is None else f"  {_percent(own)}")
        return (said, _GREEN), (f"taken for {answer}", _RED), name
    return (answer, INK), *((f"then {names[i]}  {_percent(answers[i])}", FAINT) for i in others[:1]), name


def _percent(chance: Tensor) -> str:
    if chance < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < chance < 1 else f"{100 * float(chance):.1f} %"
