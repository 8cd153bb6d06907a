"""Accuracy by task, where the classes of a model are those of several tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor


def task_table(confusion: Tensor, tasks: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each task of which there is an example, in the order of the classes.

    `task`; `accuracy`, the share of its examples that have the right answer, `right` of `total`; `retrieved`, the share
    of those whose answer is one of its classes. Shares are in per cent.

    Args:
        confusion: sparse, (C, C).
        tasks: that of each class.
    """
    counts = [*zip(*confusion.indices().tolist(), confusion.values().tolist(), strict=True)]
    rows = []
    for task in dict.fromkeys(tasks):
        of_task = [(label, answer, count) for label, answer, count in counts if tasks[label] == task]
        total = sum(count for *_, count in of_task)
        right = sum(count for label, answer, count in of_task if label == answer)
        retrieved = sum(count for _, answer, count in of_task if tasks[answer] == task)
        if total:
            shares = {"accuracy": 100 * right / total, "retrieved": 100 * retrieved / total}
            rows.append({"task": task, **shares, "right": right, "total": total})
    return rows


def task_lines(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The same as lines of a log."""
    for row in rows:
        yield (
            f"{row['task']}: accuracy {row['accuracy']:.2f} ({row['right']} of {row['total']}), "
            f"{row['retrieved']:.2f} % answered with one of its classes"
        )
