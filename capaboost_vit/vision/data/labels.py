"""From the values of a label column to labels from 0 and class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_MOST_CLASSES = 1_000_000


def number_labels(
    spec: str, column: str, values: Mapping[str, Sequence[Any]], names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Class names, labels by split, and the splits without any label (all None or -1), which get no labels.

    Args:
        spec, column: for messages.
        values: the column of each split: integers, or text, whose classes are then those of train, sorted.
        names: of integer labels; None calls class i `str(i)`.

    Raises:
        ValueError: by split and row: no label, text among numbers, out of range, a class that train does not have.
    """
    unlabelled = tuple(name for name, column_ in values.items() if all(_missing(v) or v == -1 for v in column_))
    labelled = {name: list(column_) for name, column_ in values.items() if name not in unlabelled}
    if not labelled:
        raise ValueError(f"{spec}: the column {column!r} holds no label")
    for name, column_ in labelled.items():
        for row, value in enumerate(column_):
            if _missing(value) or value == -1:
                raise ValueError(f"{spec}: row {row} of {name} has no label ({value!r} in {column!r})")
    if any(isinstance(value, str | bool) for column_ in labelled.values() for value in column_):
        classes, labels = _of_text(spec, labelled)
    else:
        classes, labels = _of_numbers(spec, column, labelled, names)
    return classes, labels, unlabelled


def _missing(value: Any) -> bool:
    """None, NaN, and text without a letter in it."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _of_text(spec: str, values: dict[str, list[Any]]) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    for name, column in values.items():
        for row, value in enumerate(column):
            if not isinstance(value, str | bool):
                raise ValueError(f"{spec}: row {row} of {name} has the label {value!r}, others are text")
    first = "train" if "train" in values else next(iter(values))
    classes = sorted({str(value) for value in values[first]})
    index = {name: label for label, name in enumerate(classes)}
    for name, column in values.items():
        for row, value in enumerate(column):
            if str(value) not in index:
                raise ValueError(f"{spec}: row {row} of {name} has the class {value!r}, which {first} does not have")
    return tuple(classes), {name: tuple(index[str(value)] for value in column) for name, column in values.items()}


def _of_numbers(
    spec: str, column: str, values: dict[str, list[Any]], names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    count = _MOST_CLASSES if names is None else len(names)
    labels = {}
    for name, column_ in values.items():
        for row, value in enumerate(column_):
            if not (isinstance(value, int | float) and 0 <= value < count and value == int(value)):
                raise ValueError(
                    f"{spec}: row {row} of {name} has the label {value!r} in {column!r}, expected 0 to {count - 1:,}"
                )
        labels[name] = tuple(int(value) for value in column_)
    if names is None:
        names = [str(label) for label in range(1 + max(max(column_) for column_ in labels.values()))]
    return tuple(names), labels
