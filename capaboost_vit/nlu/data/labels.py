"""From the values of a label column to classes from 0, or to scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...io.labels import LabelColumn, labelled, listed, training_column
from ..tasks import Task
from .columns import no_label_column
from .rows import Rows

_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_NEEDED = ("train", "val")  # splits that are of no use without labels

Labels = tuple[int, ...] | tuple[float, ...]


def number_labels(task: Task, rows: Mapping[str, Rows]) -> tuple[tuple[str, ...], dict[str, Labels], tuple[str, ...]]:
    """Class names, labels by split, and the splits without any label (no column, or all empty or -1).

    Labels of a task with class names are these names, or their numbers from 0. Else the classes are those that the
    data set names, or the values in train: integers by size, text sorted. Scores are numbers.

    Raises:
        ValueError: by file and line: no label, one that is unknown or out of range, a score that is no number.
    """
    if task.kind == "masked":
        return (), {name: () for name in rows}, ()
    every = {name: LabelColumn(part.label or "", part.cells, part.locate, plain=_plain) for name, part in rows.items()}
    columns = labelled(next(iter(rows.values())).table.where, every, needed=_NEEDED)
    unlabelled = tuple(name for name in rows if name not in columns)
    for name in columns:
        table = rows[name].table
        if rows[name].label is None:
            raise no_label_column(table.where, table.columns, task)
    labels: dict[str, Labels]
    if task.kind == "regression":
        labels = {name: _scores(column) for name, column in columns.items()}
        return (), labels, unlabelled
    classes, numbers = _classes(task, rows, columns)
    index = {str(number): label for number, label in numbers.items()}
    index |= {name: label for label, name in enumerate(classes)}
    expected = listed(classes) + (f", or {min(numbers)} to {max(numbers)}" if numbers else "")
    labels = {name: column.numbered(index, expected, names=classes) for name, column in columns.items()}
    return classes, labels, unlabelled


def _plain(cell: Any) -> Any:
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


def _classes(
    task: Task, rows: Mapping[str, Rows], columns: Mapping[str, LabelColumn]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and labels by the integers that may stand for them."""
    if task.classes:
        if any(_INTEGER.fullmatch(name) for name in task.classes):  # then an integer is a name
            return task.classes, {}
        count = len(task.classes)
        from_one = task.from_one and any(count in column.values for column in columns.values())
        return task.classes, {label + from_one: label for label in range(count)}
    column = training_column(columns)
    named = rows["train" if "train" in columns else next(iter(columns))].table.class_names.get(column.name)
    if named:
        return named, {}
    for row, value in enumerate(column.values):
        if not isinstance(value, int | str):
            raise ValueError(
                f"{column.locate(row)}: expected a class in {column.name!r}, text or an integer, got {value!r}"
            )
    in_order = sorted(set(column.values), key=lambda value: (isinstance(value, str), value))
    return tuple(str(value) for value in in_order), {}
