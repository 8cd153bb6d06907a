"""From the rows of a table to texts, names, and the values of the label column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..tasks import Task
from .columns import label_column, text_columns
from .table import Table


@dataclass(frozen=True)
class Rows:
    """What was read of one split.

    Args:
        texts: one or two segments per example.
        numbers: lines or rows, per example.
        label: the label column; None where there is none, and then no `cells`.
        cells: of the label column, per example.
        left_out: how many broken rows were passed over.
    """

    table: Table
    texts: list[tuple[str, ...]]
    numbers: list[int]
    label: str | None
    cells: list[Any]
    left_out: int

    @property
    def names(self) -> tuple[str, ...]:
        """By which a person finds each example: `train.tsv:17`."""
        return tuple(f"{self.table.name}:{number}" for number in self.numbers)

    def locate(self, index: int) -> str:
        """Where a person finds an example, for messages."""
        return self.table.locate(self.numbers[index])


def read_rows(table: Table, task: Task, *, layouts: list[tuple[str, ...]], asked: str | None) -> Rows:
    """All examples of a table.

    Args:
        layouts: names that the columns of texts may have.
        asked: the label column that was asked for.

    Raises:
        ValueError: by line or row: a column that is not there, a text that is empty or no text.
    """
    columns = text_columns(table.where, table.columns, layouts)
    joined = len(task.columns) == 1 and columns == task.file_columns
    label = label_column(table.where, table.columns, task, asked) if task.kind != "masked" or asked else None
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
    return Rows(table, texts, numbers, label, label_cells, left_out)


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
