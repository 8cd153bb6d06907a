"""Columns of a table: the one that was asked for, or the only one that fits; label columns and their classes."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any
from unicodedata import normalize

from .options import suggest

INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)(\.0*)?")  # of a label in text: 007 is a name

_LISTED = 20


def asked_column(where: str, columns: Collection[str], asked: str, flag: str) -> str:
    """The column of that name. Raises ValueError if there is none."""
    if asked not in columns:
        raise no_column(where, columns, asked, flag)
    return asked


def only_column(where: str, candidates: Sequence[str], what: str, flag: str) -> str | None:
    """The one candidate, None where there is none. Raises ValueError if there are several."""
    if len(candidates) > 1:
        raise ValueError(f"{where} has several columns of {what}: choose with {flag} {' or '.join(candidates)}")
    return candidates[0] if candidates else None


def no_column(where: str, columns: Collection[str], name: str, flag: str, *, taken: Collection[str] = ()) -> ValueError:
    """The error for a column that is not there.

    Args:
        where: the table, as messages name it.
        flag: the option that names another column.
        taken: columns that are in use already, so nobody can have meant them.
    """
    hint = suggest(name, [other for other in columns if other not in taken])
    there = listed_columns(columns)
    return ValueError(f"{where} has no column {name!r}{hint}; it has: {there}. Choose another one with {flag}")


def listed_columns(columns: Iterable[str]) -> str:
    """Names of columns for a message: a first line that holds no names may hold texts."""
    return ", ".join(name if len(name) <= 30 else name[:30] + "..." for name in columns)


class LabelColumn:
    """The labels of one split.

    Args:
        name: of the column.
        cells: what it holds, one per row.
        locate: from a row's place here to where a person finds it, for messages.
        plain: from a cell to the value that it stands for; None where it is no label.
        classes: their names, where the table tells them.
    """

    def __init__(
        self,
        name: str,
        cells: Sequence[Any],
        locate: Callable[[int], str],
        *,
        plain: Callable[[Any], Any],
        classes: tuple[str, ...] = (),
    ) -> None:
        self.name, self.cells, self.locate, self.classes = name, cells, locate, classes
        self.values = [plain(cell) for cell in cells]

    @property
    def is_empty(self) -> bool:
        """Whether no row has a label: test sets are often published with -1 in each row, or nothing."""
        return all(value is None or value == -1 for value in self.values)

    def numbered(self, index: Mapping[str, int], expected: str, *, names: Sequence[str] = ()) -> tuple[int, ...]:
        """The label of each row.

        Args:
            index: labels by values, as text.
            expected: instead of a value that is not in the index, for messages.
            names: which of them may have been misspelt.

        Raises:
            ValueError: by row: a value that is not in the index.
        """
        labels = tuple(index.get(str(value), -1) for value in self.values)
        if -1 in labels:
            row = labels.index(-1)
            hint = suggest(self.values[row], names)
            raise ValueError(
                f"{self.locate(row)} has the label {self.values[row]!r} in {self.name!r}{hint}; {expected}"
            )
        return labels


def labelled(where: str, columns: Mapping[str, LabelColumn], *, needed: Collection[str] = ()) -> dict[str, LabelColumn]:
    """The columns, by split, that hold labels, one in each row.

    Args:
        where: the data set or its column, for messages.
        needed: splits that are of no use without labels.

    Raises:
        ValueError: no split has labels; a row without one in a split that has some.
    """
    kept = {split: column for split, column in columns.items() if split in needed or not column.is_empty}
    if not kept:
        raise ValueError(f"{where} holds no label")
    for column in kept.values():
        if None in column.values:
            row = column.values.index(None)
            raise ValueError(f"{column.locate(row)} has no label in {column.name!r} ({column.cells[row]!r})")
    return kept


def training_column(columns: Mapping[str, LabelColumn]) -> LabelColumn:
    """The column whose values are the classes: that of train, else the first one."""
    return columns.get("train") or next(iter(columns.values()))


def refuse_lookalikes(where: str, classes: Iterable[str]) -> None:
    """Raises ValueError for two names that differ in nothing but their Unicode form, such as one or two code points."""
    by_form: dict[str, str] = {}
    for name in classes:
        other = by_form.setdefault(normalize("NFC", name), name)
        if other != name:
            raise ValueError(f"{where} has two classes that look the same, {other!a} and {name!a}: rename one")


def listed(classes: Sequence[str]) -> str:
    """Classes for a message."""
    return "the classes are: " + ", ".join(classes[:_LISTED]) + (" and more" if len(classes) > _LISTED else "")
