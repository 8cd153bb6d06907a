"""The columns of a table that hold texts and labels: what they are called, and from their cells to examples."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from ...io.columns import (
    INTEGER,
    LabelColumn,
    asked_column,
    labelled,
    listed,
    no_column,
    only_column,
    refuse_lookalikes,
    training_column,
)
from ..tasks import Task
from .split import PREDICT
from .tables import Table

TEXTS = (  # usual names of the columns of texts
    ("text",),
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
)
LABELS = ("label", "labels", "class", "category", "target", "score")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)(e[+-]?[0-9]+)?", re.IGNORECASE)

Labels = tuple[int, ...] | tuple[float, ...]


class Rows(NamedTuple):
    """What was read of one split: fields of `TextSplit`, labels as they stand there, and how many rows were broken."""

    texts: tuple[tuple[str, ...], ...]
    names: tuple[str, ...]
    labels: LabelColumn  # without cells where the table has none
    left_out: int


def read_rows(
    table: Table, task: Task, *, layouts: list[tuple[str, ...]], asked: str | None, needs_labels: bool
) -> Rows:
    """All examples of a table; `asked` is the label column that was asked for.

    Raises:
        ValueError: a column that is not there, or that is one of several; by line or row: a text that is empty or none.
    """
    columns = _text_columns(table, layouts)
    joined = len(task.columns) == 1 and columns == task.file_columns
    label = _label_column(table, task, asked, needed=needs_labels)
    needed = {*columns, label} - {None}
    texts: list[tuple[str, ...]] = []
    numbers: list[int | str] = []
    label_cells: list[Any] = []
    left_out = 0
    for number, cells in table.rows:
        if task.flawed and (not needed <= set(cells) or (label and cells[label] == "")):
            left_out += 1
            continue
        segments = tuple(text_of(table, number, cells, name) for name in columns)
        empty = [name for name, segment in zip(columns, segments, strict=True) if not segment.strip()]
        if empty and not (task.flawed and len(empty) < len(columns)):
            raise ValueError(f"{table.locate(number)}: the text in {empty[0]!r} is empty")
        texts.append((" ".join(segments),) if joined else segments)
        numbers.append(number)
        if label is not None:
            label_cells.append(_cell(table, number, cells, label))
    if not texts:
        raise ValueError(f"{table.where} has no rows")
    names = tuple(f"{table.name}:{number}" for number in numbers)
    labels = LabelColumn(
        label or "",
        label_cells,
        lambda index: table.locate(numbers[index]),
        plain=plain_label,
        classes=table.class_names.get(label or "", ()),
    )
    return Rows(tuple(texts), names, labels, left_out)


def _text_columns(table: Table, layouts: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The one layout whose columns are all there; of two, the one that holds more than the other."""
    where, columns = table.where, table.columns
    present = [names for names in layouts if set(names) <= set(columns)]
    largest = [names for names in present if not any(set(names) < set(other) for other in present)]
    if largest:
        only_column(where, [" and ".join(names) for names in largest], "texts", "--text-columns")
        return largest[0]
    wanted = min(layouts, key=lambda names: len(set(names) - set(columns)))
    missing = next(name for name in wanted if name not in columns)
    raise no_column(where, columns, missing, "--text-columns", taken=wanted)


def _label_column(table: Table, task: Task, asked: str | None, *, needed: bool) -> str | None:
    """The column asked for, or the task's, or the one of a usual name; None where there is no such column."""
    where, columns = table.where, table.columns
    if asked is not None:
        return asked_column(where, columns, asked, "--label-column")
    if task.kind == "masked":
        return None
    names = [name for name in (task.label, task.file_label) if name]
    if names:
        column = next((name for name in names if name in columns), None)
    else:
        column = only_column(where, [name for name in columns if name.lower() in LABELS], "labels", "--label-column")
    if column is None and needed:
        raise no_column(where, columns, task.label or "label", "--label-column")
    return column


def _cell(table: Table, number: int | str, cells: Mapping[str, Any], name: str) -> Any:
    if name not in cells:
        raise ValueError(f"{table.locate(number)} has no {name!r}; it has: {', '.join(cells)}")
    return cells[name]


def text_of(table: Table, number: int | str, cells: Mapping[str, Any], name: str) -> str:
    """The text in a cell. Raises ValueError by line where there is none."""
    value = _cell(table, number, cells, name)
    if not isinstance(value, str):
        raise ValueError(f"{table.locate(number)}: expected a text in {name!r}, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # a JSON escape of half a pair, which no tokenizer takes
        raise ValueError(f"{table.locate(number)}: the text in {name!r} is no Unicode: {error.reason}") from error
    return value


def number_labels(
    where: str, task: Task, columns: Mapping[str, LabelColumn], *, needed: Collection[str]
) -> tuple[tuple[str, ...], dict[str, Labels]]:
    """Class names, and labels by split, without those splits that have none (no column, or all empty or -1).

    Labels of a task with class names are these names, or their numbers from 0. Else the classes are those that the
    data set names, or the values in train: integers by size, text sorted. Scores are numbers.

    `where` is the first table, for messages; the splits in `needed` are of no use without labels.

    Raises:
        ValueError: by file and line: no label, one that is unknown or out of range, a score that is no number.
    """
    if task.kind == "masked":
        return (), {name: () for name in columns}
    if not columns.keys() & set(needed) and all(column.is_empty for column in columns.values()):
        raise ValueError(f"{where} has no labels; {PREDICT}")
    columns = labelled(where, columns, needed=needed)
    if task.kind == "regression":
        return (), {name: _scores(column) for name, column in columns.items()}
    classes, first = _classes(task, columns)
    index = {name: label for label, name in enumerate(classes)}
    expected = listed(classes)
    if first is not None:
        index |= {str(first + label): label for label in range(len(classes))}
        expected += f", or {first} to {first + len(classes) - 1}"
    return classes, {name: column.numbered(index, expected, names=classes) for name, column in columns.items()}


def plain_label(cell: Any) -> Any:
    """An integer where it is one, also where a file holds it as text; text; None where there is nothing."""
    if isinstance(cell, bool):
        return str(cell).lower()  # as JSON writes it
    if isinstance(cell, str):
        text = cell.strip()
        return int(text.partition(".")[0]) if INTEGER.fullmatch(text) else text or None
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell


def _scores(column: LabelColumn) -> tuple[float, ...]:
    scores = []
    for row, value in enumerate(column.values):
        number = float(value) if isinstance(value, str) and _NUMBER.fullmatch(value) else value
        if not isinstance(number, int | float) or not math.isfinite(number):
            raise ValueError(f"{column.locate(row)}: expected a number in {column.name!r}, got {number!r}")
        scores.append(float(number))
    return tuple(scores)


def _classes(task: Task, columns: Mapping[str, LabelColumn]) -> tuple[tuple[str, ...], int | None]:
    """Class names, and the integer that may stand for the first one; None where integers stand for none."""
    if task.classes:
        if any(_NUMBER.fullmatch(name) for name in task.classes):  # then an integer is a name, as 007 is
            return task.classes, None
        count = len(task.classes)
        return task.classes, int(task.from_one and any(count in column.values for column in columns.values()))
    column = training_column(columns)
    if column.classes:
        return column.classes, None
    for row, value in enumerate(column.values):
        if not isinstance(value, int | str):
            raise ValueError(
                f"{column.locate(row)}: expected a class in {column.name!r}, text or an integer, got {value!r}"
            )
    in_order = sorted(set(column.values), key=lambda value: (isinstance(value, str), value))
    names = tuple(str(value) for value in in_order)
    refuse_lookalikes(f"{column.name!r}", names)
    return names, None
