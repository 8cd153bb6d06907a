"""From the values of a label column to labels from 0 and class names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ...io.columns import LabelColumn, labelled, listed, training_column

MOST_CLASSES = 1_000_000  # a larger label is a mistake, such as an id


def number_labels(
    spec: str, column: str, cells: Mapping[str, Sequence[Any]], names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Class names, labels by split, and the splits without any label (all None or -1), which get no labels.

    Args:
        spec, column: for messages.
        cells: the column of each split: integers, or text, whose classes are then those of train, sorted.
        names: of integer labels; None calls class i `str(i)`.

    Raises:
        ValueError: by split and row: no label, text among numbers, out of range, a class that train does not have.
    """
    every = {name: LabelColumn(column, part, _locate(spec, name), plain=_plain) for name, part in cells.items()}
    columns = labelled(f"{spec}: the column {column!r}", every)
    if any(isinstance(value, str) for part in columns.values() for value in part.values):
        for part in columns.values():
            for row, value in enumerate(part.values):
                if not isinstance(value, str):
                    raise ValueError(f"{part.locate(row)} has the label {value!r}, others are text")
        names = sorted(set(training_column(columns).values))
        index, expected, alike = {name: label for label, name in enumerate(names)}, listed(names), names
    else:
        end = MOST_CLASSES if names is None else len(names)
        if names is None:
            in_range = (v for part in columns.values() for v in part.values if isinstance(v, int) and 0 <= v < end)
            names = [str(label) for label in range(1 + max(in_range, default=-1))]
        index, expected, alike = {str(i): i for i in range(len(names))}, f"expected 0 to {end - 1:,}", []
    labels = {name: part.numbered(index, expected, names=alike) for name, part in columns.items()}
    return tuple(names), labels, tuple(name for name in cells if name not in columns)


def _locate(spec: str, split: str) -> Callable[[int], str]:
    return lambda row: f"{spec}: row {row} of {split}"


def _plain(cell: Any) -> Any:
    """Text, an integer, or what else stands there; None for NaN, -1, and text without a letter in it."""
    if cell is None or cell != cell or cell == -1 or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, bool):
        return str(cell)
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
