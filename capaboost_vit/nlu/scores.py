"""The objectives of text tasks, with the metrics that each is scored by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..training.objective import Objective, classification
from .config import TextConfig
from .encoded import EncodedTask
from .metrics import scores
from .objectives import masked_tokens, regression, spans
from .questions import QuestionSplit, Windows, best_answers, best_threshold, score_answers
from .tasks import Task


def make_objective(
    config: TextConfig, task: Task, data: EncodedTask
) -> tuple[Objective, Callable[[Tensor, Any], None] | None]:
    """The objective of a task, and what chooses the no-answer threshold on val (for SQuAD v2 alone).

    Raises:
        ValueError: smoothing of a task without classes.
    """
    if config.smoothing and task.kind != "classification":
        raise ValueError(f"--smoothing is for classes, and {task.name} has none")
    if task.kind == "masked":
        return masked_tokens(), None
    if task.kind == "regression":

        def of_numbers(outputs: Tensor, batches: Any) -> dict[str, float]:
            return scores(task.metrics, outputs, batches.examples.encoded.targets, num_classes=None)

        return regression(score=of_numbers, names=task.metrics), None
    if task.kind == "questions":
        questions = QuestionScores(config, data)
        return spans(score=questions.scores, names=task.metrics), questions.calibrate if questions.no_answer else None

    def of_classes(confusion: Tensor) -> dict[str, float]:
        return scores(task.metrics, *_expanded(confusion), num_classes=len(confusion))

    return classification(smoothing=config.smoothing, score=of_classes, names=task.metrics), None


def _expanded(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """Predictions and targets of which this is the confusion matrix, in some order."""
    size = len(confusion)
    pairs = torch.arange(size * size).repeat_interleave(confusion.flatten())
    return pairs % size, pairs // size


class QuestionScores:
    """Exact match and F1 of questions, from the logits of their windows.

    Where questions need not have an answer, they get none if that is likelier by more than `threshold`.
    """

    def __init__(self, config: TextConfig, data: EncodedTask) -> None:
        self.config, self.data = config, data
        self.no_answer = any(split.unanswerable for split in data.data.splits.values())
        self.threshold = 0.0

    def scores(self, logits: Tensor, batches: Any) -> dict[str, float]:
        """From logits (windows, 2, N) of one split."""
        questions, answers = self._answered(logits, batches)
        return score_answers(questions, answers)

    def calibrate(self, logits: Tensor, batches: Any) -> None:
        """Takes the no-answer threshold that is best on this split."""
        self.threshold = 0.0
        self.threshold = best_threshold(*self._answered(logits, batches))

    def _answered(self, logits: Tensor, batches: Any) -> tuple[QuestionSplit, dict[str, Any]]:
        windows: Windows = batches.examples.encoded
        split: QuestionSplit = self.data.split_of(windows)
        answers = best_answers(
            split,
            windows,
            logits[:, 0],
            logits[:, 1],
            n_best=self.config.n_best,
            max_answer_length=self.config.max_answer_length,
            no_answer=self.no_answer,
            threshold=self.threshold,
        )
        return split, answers
