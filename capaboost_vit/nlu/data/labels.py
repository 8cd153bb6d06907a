"""From the values of a label column to classes from 0, or to scores."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ...io.options import suggest
from ..tasks import Task
from .columns import no_label_column
from .rows import Rows

_INTEGER = re.compile(r"[+-]?[0-9]+(\.0*)?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)
_LISTED = 20
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
    values = {name: [_plain(value) for value in part.values or ()] for name, part in rows.items()}
    unlabelled = tuple(
        name for name, column in values.items() if name not in _NEEDED and all(v is None or v == -1 for v in column)
    )
    labelled = {name: part for name, part in rows.items() if name not in unlabelled}
    if not labelled:
        raise ValueError(f"{next(iter(rows.values())).table.whole} holds no label")
    for name, part in labelled.items():
        if part.label is None:
            raise no_label_column(part.table.whole, part.table.columns, task)
        if None in values[name]:
            raise ValueError(f"{part.locate(values[name].index(None))} has no label in {part.label!r}")
    if task.kind == "regression":
        scores: dict[str, Labels] = {
            name: tuple(_score(part, i, value) for i, value in enumerate(values[name]))
            for name, part in labelled.items()
        }
        return (), scores, unlabelled
    classes, numbers = _classes(task, labelled, values)
    labels: dict[str, Labels] = {
        name: tuple(_label(part, i, value, classes, numbers) for i, value in enumerate(values[name]))
        for name, part in labelled.items()
    }
    return classes, labels, unlabelled


def _plain(value: Any) -> Any:
    """An integer where it is one, also where a file holds it as text; text; None where there is nothing."""
    if isinstance(value, bool):
        return str(value).lower()  # as JSON writes it
    if isinstance(value, str):
        value = value.strip()
        return int(value.partition(".")[0]) if _INTEGER.fullmatch(value) else value or None
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _score(part: Rows, index: int, value: Any) -> float:
    if isinstance(value, str) and _NUMBER.fullmatch(value):
        value = float(value)
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    raise ValueError(f"{part.locate(index)}: expected a number in {part.label!r}, got {value!r}")


def _classes(
    task: Task, rows: Mapping[str, Rows], values: Mapping[str, list[Any]]
) -> tuple[tuple[str, ...], dict[int, int]]:
    """Class names, and labels by the integers that may stand for them."""
    if task.classes:
        if any(_INTEGER.fullmatch(name) for name in task.classes):
            return task.classes, {}
        count = len(task.classes)
        from_one = task.from_one and any(count in values[name] for name in rows)
        return task.classes, {label + from_one: label for label in range(count)}
    first = "train" if "train" in rows else next(iter(rows))
    part = rows[first]
    told = part.table.class_names.get(part.label or "")
    if told:
        return told, {}
    for index, value in enumerate(values[first]):
        if not isinstance(value, int | str):
            raise ValueError(
                f"{part.locate(index)}: expected a class in {part.label!r}, text or an integer, got {value!r}"
            )
    found = sorted(set(values[first]), key=lambda value: (isinstance(value, str), value))
    return tuple(str(value) for value in found), {}


def _label(part: Rows, index: int, value: Any, classes: tuple[str, ...], numbers: Mapping[int, int]) -> int:
    if str(value) in classes:
        return classes.index(str(value))
    if isinstance(value, int) and value in numbers:
        return numbers[value]
    there = ", ".join(classes[:_LISTED]) + (" and more" if len(classes) > _LISTED else "")
    or_numbers = f", or {min(numbers)} to {max(numbers)}" if numbers else ""
    raise ValueError(
        f"{part.locate(index)} has the label {value!r} in {part.label!r}{suggest(value, classes)}; "
        f"the classes are: {there}{or_numbers}"
    )
