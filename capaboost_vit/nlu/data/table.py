"""Rows of texts, one at a time, in one shape wherever they come from; and what is read of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ...io.columns import LabelColumn
from ..tasks import Task
from .columns import label_column, plain, text_columns

Row = tuple[int, Mapping[str, Any]]  # its number, and cells by column


@dataclass(frozen=True)
class Table:
    """The rows of one split, read once.

    A row of a file that is known to be flawed may have too few cells for the header: it lacks the last columns.
    """

    where: str  # the file, or the split of a hub set, as messages name it
    name: str  # as its examples are named: `train.tsv`
    columns: tuple[str, ...]  # those of the first row where each row names its own
    rows: Iterable[Row]
    unit: str = "line"  # what is counted: lines of a file from 1, rows of a hub set from 0
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of integer labels, by column

    def locate(self, number: int) -> str:
        """Where a person finds a row."""
        return f"{self.where}, {self.unit} {number}"


def table_of(spec: str, split: str, rows: Any) -> Table:
    """A split as `datasets` holds it; a class stands there by its name, and a missing one (-1) as None."""
    import datasets

    kinds = rows.features.items()
    names = {column: tuple(kind.names) for column, kind in kinds if isinstance(kind, datasets.ClassLabel)}

    def named() -> Iterator[Row]:
        for number, row in enumerate(rows):
            for column, classes in names.items():
                label = row[column]
                row[column] = None if label is None or label < 0 else classes[label]
            yield number, row

    return Table(f"{split} of {spec}", split, tuple(rows.features), named(), unit="row", class_names=names)


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
        ValueError: by line or row: a column that is not there, a text that is empty or no text.
    """
    columns = text_columns(table.where, table.columns, layouts)
    joined = len(task.columns) == 1 and columns == task.file_columns
    label = label_column(table.where, table.columns, task, asked, needed=needs_labels)
    needed = {*columns, *filter(None, [label])}
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
