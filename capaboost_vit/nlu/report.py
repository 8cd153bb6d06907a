"""What is said of an evaluated split of texts beside the task's own scores, and the rows of its table, by kind."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..training.metrics import class_table, scores, wilson_interval
from ..training.outputs import tag_targets
from ..training.probabilities import Kept, classification_report
from ..training.reports import tag_report
from .encoded import EncodedTask
from .questions import Answer
from .table import Rows, answer_rows, choice_rows, class_rows, number_rows, tag_rows, word_rows
from .token_objectives import entity_table
from .words import Sentences, tags_of

_OF_NUMBERS = ("pearson", "spearman", "mae")


def further_scores(
    data: EncodedTask, name: str, accumulated: Tensor, kept: Kept | None, *, temperature: float, threshold: float = 0.5
) -> dict[str, Any]:
    """Of classes the `classification_report`; else `total`, the number of examples, words or questions, and more.

    Of texts with several tags the `tag_report`; of choices `right`, and `accuracy_low`, `accuracy_high`, the ends of
    the accuracy's Wilson interval; of numbers `pearson`, `spearman` (per cent) and `mae`; of entities `per_entity`, see
    `entity_table`; of other tags of words `per_class`, see `class_table`.

    Args:
        name: of the split. accumulated: what the task's objective has accumulated on it.
        kept: logits and labels, of classes. threshold: probability from which a tag of a text counts as predicted.
    """
    split, classes = data.data.splits[name], data.data.classes
    if data.task.kind == "classification":
        assert kept is not None
        return classification_report(accumulated, kept, classes, temperature=temperature)
    if data.task.kind == "multi-label":
        targets = tag_targets(split.labels, len(classes))
        return tag_report(accumulated, targets, classes, threshold=threshold)
    if data.task.kind == "multiple-choice":
        right = int((accumulated.argmax(1) == torch.tensor(split.labels)).sum())
        low, high = wilson_interval(right, len(split))
        return {"right": right, "total": len(split), "accuracy_low": low, "accuracy_high": high}
    if data.task.kind == "regression":
        targets = torch.tensor(split.labels)
        return {**scores(_OF_NUMBERS, accumulated[:, 0], targets), "total": len(split)}
    if data.task.kind == "tokens":
        predicted = _tags(data, name, accumulated)
        total = sum(map(len, split.labels))
        if "f1" in data.task.metrics:
            return {"total": total, "per_entity": entity_table(predicted, split.labels, classes)}
        pairs = torch.tensor([[*chain(*split.labels)], [*chain(*predicted)]])
        cells = torch.ones(total, dtype=torch.int64)
        confusion = torch.sparse_coo_tensor(pairs, cells, (len(classes), len(classes)), check_invariants=True)
        return {"total": total, "per_class": class_table(confusion.coalesce(), classes)}
    return {"total": len(split)}


def prediction_rows(
    data: EncodedTask,
    name: str,
    accumulated: Tensor,
    *,
    answers: Mapping[str, Answer] | None,
    temperature: float,
    threshold: float = 0.5,
) -> Rows:
    """The table of a split, see `nlu.table`.

    Args:
        accumulated, threshold: as in `further_scores`; of classes all logits (E, C). answers: of questions.
    """
    split, classes = data.data.splits[name], data.data.classes
    if data.task.kind == "classification":
        return class_rows(split, accumulated, classes, temperature)
    if data.task.kind == "multi-label":
        return tag_rows(split, accumulated, classes, threshold)
    if data.task.kind == "multiple-choice":
        return choice_rows(split, accumulated)
    if data.task.kind == "regression":
        return number_rows(split, accumulated)
    if data.task.kind == "tokens":
        return word_rows(split, _tags(data, name, accumulated), classes)
    assert answers is not None, data.task.kind
    return answer_rows(split, answers)


def _tags(data: EncodedTask, name: str, answers: Tensor) -> list[list[int]]:
    encoded = data.encoded[name]
    assert isinstance(encoded, Sentences)
    return tags_of(encoded, answers)
