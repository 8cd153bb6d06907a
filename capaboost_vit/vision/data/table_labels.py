"""From the cells of a table to labels: classes, tags or numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...io.columns import LabelColumn, labelled, listed, refuse_lookalikes, training_column
from ...io.tags import number_tags, split_tags, tags_of_cell, tags_of_switches
from .labels import Task, number_of


class TableLabels(NamedTuple):
    """Labels of each image by split, what they are, and the splits without; `said`: lines on how they were read."""

    task: Task
    classes: tuple[str, ...]
    labels: dict[str, tuple[Any, ...]]
    unlabelled: tuple[str, ...]
    said: tuple[str, ...] = ()


def labels_of_column(
    spec: str, column: str, cells: Mapping[str, Sequence[Any]], feature: Any, task: Task | None
) -> TableLabels:
    """One column as the task says; without one, lists are tags, fractions are numbers, all else is classes.

    Args:
        spec, column: for messages.
        cells: of each split. feature: of `datasets`, its type.

    Raises:
        ValueError: by split and row: what is no class, tag or number.
    """
    where = f"{spec}: the column {column!r}"
    said: tuple[str, ...] = ()
    is_list = hasattr(feature, "feature")
    if task is None and (is_list or _holds_fractions(cells)):
        task = "multi-label" if is_list else "regression"
        what = "lists, so its entries are tags" if is_list else "numbers with fractions, so it is no class"
        said = (f"{where} holds {what}: --task {task}",)
    if task == "regression":
        return TableLabels(task, (), *numbers(where, cells, spec), said)
    if task == "multi-label":
        tags = {name: [*map(tags_of_cell, part)] for name, part in cells.items()}
        names = getattr(feature.feature if is_list else feature, "names", None)
        numbered = number_tags(where, tags, locate=partial(_located, spec), names=names, by_number=names is not None)
        return TableLabels(task, *numbered, said)
    if is_list:
        raise ValueError(f"{where} holds lists, not one class for each image: leave --task classification out")
    classes, labels, unlabelled = number_labels(spec, column, cells, getattr(feature, "names", None))
    if joined := [name for name in classes if len(split_tags(name)) > 1]:
        said = (f"{where} has the class {joined[0]!r}: if these are several tags, say --task multi-label",)
    return TableLabels("classification", classes, labels, unlabelled, said)


def tags_of_columns(spec: str, columns: Sequence[str], cells: Mapping[str, Sequence[Sequence[Any]]]) -> TableLabels:
    """A tag for each of several columns of 0 and 1, whose cells come column by column; raises ValueError for others."""
    tags = tags_of_switches(spec, columns, cells)
    some = ", ".join(columns[:5]) + (", ..." if columns[5:] else "")
    said = f"{spec}: {len(columns)} columns of 0 and 1 are a tag each ({some})"
    numbered = number_tags(spec, tags, locate=partial(_located, spec), names=columns, by_number=True)
    return TableLabels("multi-label", *numbered, (said,))


def numbers(
    where: str, cells: Mapping[str, Sequence[Any]], spec: str
) -> tuple[dict[str, tuple[float, ...]], tuple[str, ...]]:
    """The number of each image by split, and the splits without any.

    Raises:
        ValueError: no numbers; by split and row: a cell that holds none, in a split that has some.
    """
    found = {split: [number_of(cell) for cell in part] for split, part in cells.items()}
    kept = {split: part for split, part in found.items() if any(value is not None for value in part)}
    if not kept:
        raise ValueError(f"{where} holds no number")
    for split, part in kept.items():
        if None in part:
            row = part.index(None)
            raise ValueError(f"{_locate_row(spec, split)(row)} has {cells[split][row]!r} where a number is expected")
    labels = {split: tuple(value for value in part if value is not None) for split, part in kept.items()}
    return labels, tuple(split for split in cells if split not in kept)


def _holds_fractions(cells: Mapping[str, Sequence[Any]]) -> bool:
    """Whether all cells that are not empty are numbers, and not all of these are whole: a column of measurements."""
    filled = [cell for part in cells.values() for cell in part if cell is not None and cell == cell]
    found = [number_of(cell) for cell in filled]
    return None not in found and any(value is not None and not value.is_integer() for value in found)


def number_labels(
    spec: str, column: str, cells: Mapping[str, Sequence[Any]], names: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]], tuple[str, ...]]:
    """Class names, labels by split, and the splits without any label (all None or -1), which get no labels.

    Args:
        spec, column: for messages.
        cells: the column of each split: integers, or text, whose classes are then those of train, sorted.
        names: of integer labels; None takes the integers that occur, in order.

    Raises:
        ValueError: by split and row: no label, text among numbers, out of range, a class that train does not have.
    """
    every = {name: LabelColumn(column, part, _locate_row(spec, name), plain=_plain) for name, part in cells.items()}
    columns = labelled(f"{spec}: the column {column!r}", every)
    if any(isinstance(value, str) for part in columns.values() for value in part.values):
        for part in columns.values():
            for row, value in enumerate(part.values):
                if not isinstance(value, str):
                    raise ValueError(f"{part.locate(row)} has the label {value!r}, others are text")
        names = sorted(set(training_column(columns).values))
        refuse_lookalikes(spec, names)
        index, expected, alike = {name: label for label, name in enumerate(names)}, listed(names), names
    else:
        expected = "expected a number from 0" if names is None else f"expected 0 to {len(names) - 1:,}"
        if names is None:  # the values that occur
            every_value = {v for part in columns.values() for v in part.values if isinstance(v, int) and v >= 0}
            names = [str(value) for value in sorted(every_value)]
            index = {name: label for label, name in enumerate(names)}
        else:
            index = {str(label): label for label in range(len(names))}
        alike = []
    labels = {name: part.numbered(index, expected, names=alike) for name, part in columns.items()}
    return tuple(names), labels, tuple(name for name in cells if name not in columns)


def _locate_row(spec: str, split: str) -> Callable[[int], str]:
    return partial(_located, spec, split)


def _located(spec: str, split: str, row: int) -> str:
    return f"{spec}: row {row} of {split}"


def _plain(cell: Any) -> Any:
    """Text, an integer, or what else stands there; None for NaN, -1, and text without a letter in it."""
    if cell is None or cell != cell or cell == -1 or (isinstance(cell, str) and not cell.strip()):
        return None
    if isinstance(cell, bool):
        return str(cell)
    return int(cell) if isinstance(cell, float) and cell.is_integer() else cell
