"""From the values of label columns to classes from 0, or to scores."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from ...io.columns import LabelColumn, labelled, listed, training_column
from ..tasks import Task

_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)

Labels = tuple[int, ...] | tuple[float, ...]


def number_labels(
    where: str, task: Task, columns: Mapping[str, LabelColumn], *, needed: Collection[str]
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Class names, and labels by split, without those splits that have none (no column, or all empty or -1).

    Labels of a task with class names are these names, or their numbers from 0. Else the classes are those that the
    data set names, or the values in train: integers by size, text sorted. Scores are numbers.

    Args:
        where: the first table, for messages.
        needed: splits that are of no use without labels.

    Raises:
        ValueError: by file and line: no label, one that is unknown or out of range, a score that is no number.
    """
    if task.kind == "masked":
        return (), {name: () for name in columns}
    columns = labelled(where, columns, needed=needed)
    if task.kind == "regression":
        return (), {name: _scores(column) for name, column in columns.items()}
    classes, numbers = _classes(task, columns)
    index = {str(number): label for number, label in numbers.items()}
    index |= {name: label for label, name in enumerate(classes)}
    expected = listed(classes) + (f", or {min(numbers)} to {max(numbers)}" if numbers else "")
    return classes, {name: column.numbered(index, expected, names=classes) for name, column in columns.items()}


def plain(cell: Any) -> Any:
    """An integer where it is one, also where a file holds it as text; text; None where there is nothing."""
    if isinstance(cell, bool):
        return str(cell).lower()  # as JSON writes it
    if isinstance(cell, str):
        text = cell.strip()
        return int(text.partition(".")[0]) if _INTEGER.fullmatch(text) else text or None
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _scores(column: LabelColumn) -> tuple[float, ...]:
    scores = []
    for row, value in enumerate(column.values):
        number = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{column.locate(row)}: expected a number in {column.name!r}, got {number!r}")
        scores.append(float(number))
    return tuple(scores)


def _classes(task: Task, columns: Mapping[str, LabelColumn]) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and labels by the integers that may stand for them."""
    if task.classes:
        if any(_INTEGER.fullmatch(name) for name in task.classes):  # then an integer is a name
            return task.classes, {}
        count = len(task.classes)
        from_one = task.from_one and any(count in column.values for column in columns.values())
        return task.classes, {label + from_one: label for label in range(count)}
    column = training_column(columns)
    if column.classes:
        return column.classes, {}
    for row, value in enumerate(column.values):
        if not isinstance(value, int | str):
            raise ValueError(
                f"{column.locate(row)}: expected a class in {column.name!r}, text or an integer, got {value!r}"
            )
    in_order = sorted(set(column.values), key=lambda value: (isinstance(value, str), value))
    return tuple(str(value) for value in in_order), {}
