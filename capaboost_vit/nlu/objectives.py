"""Objectives of text tasks: their losses, what is kept of a held-out split, and the metrics that it is scored by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ..training.metrics import TAG_SCORES, confusion_scores, scores, tag_scores
from ..training.objective import Objective, classification
from ..training.outputs import Outputs, Score, multi_label, regression
from .choice_objective import choosing
from .encoded import EncodedTask
from .questions import Answer, QuestionSplit, Windows, best_answers, best_threshold, score_answers
from .token_objectives import masked_tokens, tagging

_LARGEST = torch.finfo(torch.float32).max


def make_objective(data: EncodedTask) -> tuple[Objective, QuestionScores | None]:
    """The objective of a task, and of questions what answers and scores them.

    Raises:
        ValueError: smoothing of a task without classes.
    """
    task, smoothing = data.task, data.config.smoothing
    if smoothing and task.kind != "classification":
        raise ValueError(f"--smoothing is for classes, and {task.name} has none: leave it out")
    if task.kind == "masked":
        return masked_tokens(), None
    if task.kind == "tokens":
        return tagging(task, data.data.classes), None
    if task.kind == "multiple-choice":
        return choosing(), None
    if task.kind == "multi-label":

        def of_tags(outputs: Tensor, batches: Any) -> dict[str, float]:
            return tag_scores(outputs, batches.source.encoded.targets)

        return multi_label(score=of_tags, names=TAG_SCORES), None
    if task.kind == "questions":
        questions = QuestionScores(data)
        return spans(score=questions.scores, names=task.metrics), questions
    if task.kind == "regression":

        def of_numbers(outputs: Tensor, batches: Any) -> dict[str, float]:
            return scores(task.metrics, outputs, batches.source.encoded.targets)

        return regression(score=of_numbers, names=task.metrics), None

    if "f1" in task.metrics and len(data.data.classes) != 2:
        raise ValueError(
            f"f1 is that of class 1 of two, and there are {len(data.data.classes)} classes: say --metrics macro_f1"
        )

    def of_classes(confusion: Tensor) -> dict[str, float]:
        return confusion_scores(task.metrics, confusion)

    return classification(smoothing=smoothing, score=of_classes, names=task.metrics), None


def outputs_alone() -> Objective:
    """Of no loss and no score: what an evaluation accumulates is the outputs, (examples, ...)."""
    return regression(score=lambda *_: {}, names=())


def spans(*, score: Score, names: tuple[str, ...]) -> Objective:
    """Mean of the cross-entropies of start and end, outputs (B, 2, N), targets (B, 2); -1 is the padding label.

    Right are the windows of which both ends are found. `score` makes the scores of these names from the outputs
    (windows, 2, N) and the batches, as the answer of a question is chosen among its windows.
    """

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs.float().transpose(1, 2), targets, ignore_index=-1, reduction="sum") / 2

    return Objective(
        names, loss, Outputs, score, right=lambda outputs, targets: (outputs.argmax(-1) == targets).all(-1).sum()
    )


class QuestionScores:
    """Exact match and F1 of questions, from the logits of their windows.

    A question gets no answer if that is likelier than the best one by more than `threshold`: 0 until it is chosen, and
    the largest float32, so that each gets one, where all questions of the data have an answer.
    """

    def __init__(self, data: EncodedTask) -> None:
        self.data = data
        self.no_answer = any(split.unanswerable for split in data.data.splits.values())
        self.threshold = 0.0 if self.no_answer else _LARGEST

    def scores(self, logits: Tensor, batches: Any) -> dict[str, float]:
        """From logits (windows, 2, N) of one split."""
        return score_answers(*self.answered(logits, batches))

    def calibrate(self, logits: Tensor, batches: Any) -> None:
        """Takes the no-answer threshold that is best on this split, as a finite number, as headers hold it."""
        best = best_threshold(*self.answered(logits, batches))
        # no other question has a gap beyond: an infinite one has no span to answer with
        self.threshold = max(-_LARGEST, min(_LARGEST, best))

    def answered(self, logits: Tensor, batches: Any) -> tuple[QuestionSplit, dict[str, Answer]]:
        """The split, and the answers by the ids of its questions."""
        windows: Windows = batches.source.encoded
        split: QuestionSplit = self.data.split_of(windows)
        answers = best_answers(
            split,
            windows,
            logits[:, 0],
            logits[:, 1],
            n_best=self.data.config.n_best,
            max_answer_length=self.data.config.max_answer_length,
            no_answer=True,
            threshold=self.threshold,
        )
        return split, answers
