"""What the tasks on texts are trained for and measured by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..training.objective import Classification, Objective
from .config import TextConfig
from .metrics import scores
from .objectives import MaskedTokens, Regression, Spans
from .parts import TextPart, TextParts
from .questions import QuestionSplit, Windows, best_answers, best_threshold, score_answers
from .tasks import Task


def make_objective(
    config: TextConfig, task: Task, data: TextParts
) -> tuple[Objective, Callable[[Tensor, Any], None] | None]:
    """The objective of a task, and what chooses the no-answer threshold on val (for SQuAD v2 alone).

    Raises:
        ValueError: smoothing of a task without classes.
    """
    if config.smoothing and task.kind != "classification":
        raise ValueError(f"--smoothing is for classes, and {task.name} has none")
    if task.kind == "masked":
        return MaskedTokens(), None
    if task.kind == "regression":

        def of_numbers(found: Tensor, batches: Any) -> dict[str, float]:
            return scores(task.metrics, found, batches.examples.encoded.targets, num_classes=None)

        return Regression(score=of_numbers, names=task.metrics), None
    if task.kind == "questions":
        answers = Answers(config, data)
        return Spans(score=answers.scores, names=task.metrics), answers.calibrate if data.no_answer else None

    def of_classes(confusion: Tensor) -> dict[str, float]:
        return scores(task.metrics, *_expanded(confusion), num_classes=len(confusion))

    return Classification(smoothing=config.smoothing, score=of_classes, names=task.metrics), None


def _expanded(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets of which this is the confusion matrix, in some order."""
    size = len(confusion)
    pairs = torch.arange(size * size).repeat_interleave(confusion.flatten())
    return pairs % size, pairs // size


class Answers:
    """Exact match and F1 of questions, from the logits of their windows.

    Where questions need not have an answer, they get none if that is likelier by more than `threshold`.
    """

    def __init__(self, config: TextConfig, data: TextParts) -> None:
        self.config, self.data = config, data
        self.threshold = 0.0

    def scores(self, found: Tensor, batches: Any) -> dict[str, float]:
        """From logits (windows, 2, N) of one split."""
        questions, answers = self._answered(found, batches)
        return score_answers(questions, answers)

    def calibrate(self, found: Tensor, batches: Any) -> None:
        """Takes the threshold that is best on this split."""
        self.threshold = 0.0
        self.threshold = best_threshold(*self._answered(found, batches))

    def _answered(self, found: Tensor, batches: Any) -> tuple[QuestionSplit, dict[str, Any]]:
        part: TextPart = self.data.part_of(batches.examples.encoded)
        assert isinstance(part.split, QuestionSplit)
        assert isinstance(part.encoded, Windows)
        answers = best_answers(
            part.split,
            part.encoded,
            found[:, 0],
            found[:, 1],
            n_best=self.config.n_best,
            max_answer_length=self.config.max_answer_length,
            no_answer=self.data.no_answer,
            threshold=self.threshold,
        )
        return part.split, answers
