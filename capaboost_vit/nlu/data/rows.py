"""From the rows of a table to texts, their names, and the label column."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...io.labels import LabelColumn
from ..tasks import Task
from .columns import label_column, text_columns
from .labels import plain
from .table import Table


class Rows(NamedTuple):
    """What was read of one split."""

    texts: tuple[tuple[str, ...], ...]  # one or two segments per example
    names: tuple[str, ...]  # by which a person finds each example: `train.tsv:17`
    labels: LabelColumn  # without cells where the table has none
    left_out: int  # broken rows that were passed over


def read_rows(
    table: Table, task: Task, *, layouts: list[tuple[str, ...]], asked: str | None, needs_labels: bool
) -> Rows:
    """All examples of a table.

    Args:
        layouts: names that the columns of texts may have.
        asked: the label column that was asked for.

    Raises:
        ValueError: by line or row: a column that is not there, a text that is empty or no text.
    """
    columns = text_columns(table.where, table.columns, layouts)
    joined = len(task.columns) == 1 and columns == task.file_columns
    label = label_column(table.where, table.columns, task, asked, needed=needs_labels)
    needed = {*columns} if label is None else {*columns, label}
    texts: list[tuple[str, ...]] = []
    numbers: list[int] = []
    label_cells: list[Any] = []
    left_out = 0
    for number, cells in table.rows:
        if task.flawed and (not needed <= set(cells) or (label and cells[label] == "")):
            left_out += 1
            continue
        segments = tuple(_text(table, number, cells, name) for name in columns)
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
        plain=plain,
        classes=table.class_names.get(label or "", ()),
    )
    return Rows(tuple(texts), names, labels, left_out)


def _cell(table: Table, number: int, cells: Mapping[str, Any], name: str) -> Any:
    if name not in cells:
        raise ValueError(f"{table.locate(number)} has no {name!r}; it has: {', '.join(cells)}")
    return cells[name]


def _text(table: Table, number: int, cells: Mapping[str, Any], name: str) -> str:
    value = _cell(table, number, cells, name)
    if not isinstance(value, str):
        raise ValueError(f"{table.locate(number)}: expected a text in {name!r}, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # a JSON escape of half a pair, which no tokenizer takes
        raise ValueError(f"{table.locate(number)}: the text in {name!r} is no Unicode: {error.reason}") from error
    return value
