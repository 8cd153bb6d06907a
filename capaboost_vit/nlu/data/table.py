"""Rows of texts, one at a time, in one shape wherever they come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_AT_ONCE = 1000  # rows that are taken from a data set together

Row = tuple[int, Mapping[str, Any]]  # its number, and cells by column


@dataclass(frozen=True)
class Table:
    """The rows of one split, read once.

    Args:
        where: the file, or the split of a hub set, as messages name it.
        name: as its examples are named: `train.tsv`.
        unit: what is counted: lines of a file from 1, rows of a hub set from 0.
        columns: names of all columns, those of the first row where each row names its own.
        rows: one of a file that has too few cells for its header lacks the last ones if the file is known to be flawed,
            and is an error else.
        class_names: of integer labels by column, where the data tells them.
    """

    where: str
    name: str
    unit: str
    columns: tuple[str, ...]
    rows: Iterable[Row]
    class_names: Mapping[str, tuple[str, ...]]

    def locate(self, number: int) -> str:
        """Where a person finds a row."""
        return f"{self.where}, {self.unit} {number}"


def table_of(spec: str, split: str, rows: Any) -> Table:
    """A split as `datasets` holds it; a class stands there by its name, and a missing one (-1) as None."""
    import datasets

    names = {
        column: tuple(kind.names) for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)
    }
    return Table(f"{split} of {spec}", split, "row", tuple(rows.features), _rows(rows, names), names)


def _rows(rows: Any, names: Mapping[str, tuple[str, ...]]) -> Iterator[Row]:
    number = 0
    for columns in rows.iter(_AT_ONCE):
        for cells in zip(*columns.values(), strict=True):
            row = dict(zip(columns, cells, strict=True))
            for column, classes in names.items():
                label = row[column]
                row[column] = None if label is None or label < 0 else classes[label]
            yield number, row
            number += 1
