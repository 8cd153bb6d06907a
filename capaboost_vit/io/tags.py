"""Tags, of which an example may have several: from the cells of a table to numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .columns import listed, refuse_lookalikes
from .options import suggest

_SEPARATOR = re.compile("[;|]")


def split_tags(text: Any) -> tuple[str, ...]:
    """The tags in `a;b;c` or `a|b`; none in an empty cell."""
    return tuple(tag.strip() for tag in _SEPARATOR.split(str(text)) if tag.strip())


def tags_of_cell(cell: Any) -> Sequence[Any]:
    """The items of a list, or the tags of a text; none of None and NaN."""
    if isinstance(cell, list | tuple):
        return cell
    return () if cell is None or cell != cell else split_tags(cell)


def is_switch(cells: Sequence[Any]) -> bool:
    """Whether a column holds nothing but 0 and 1, or true and false."""
    return all(isinstance(cell, bool | int | float) and cell in (0, 1) for cell in cells)


def tags_of_switches(
    spec: str, columns: Sequence[str], cells: Mapping[str, Sequence[Sequence[Any]]]
) -> dict[str, list[list[int]]]:
    """The numbers of the columns that hold 1 in each row, by split; the cells come column by column.

    Raises:
        ValueError: a column that holds others than 0 and 1.
    """
    for name, part in cells.items():
        for column, values in zip(columns, part, strict=True):
            if not is_switch(values):
                raise ValueError(f"{spec}: the column {column!r} of {name} is no tag: it holds others than 0 and 1")
    rows = {name: zip(*part, strict=True) for name, part in cells.items()}
    return {name: [[i for i, on in enumerate(row) if on] for row in part] for name, part in rows.items()}


def number_tags(
    where: str,
    cells: Mapping[str, Sequence[Sequence[Any]]],
    *,
    locate: Callable[[str, int], str],
    names: Sequence[str] | None = None,
    by_number: bool = False,
) -> tuple[tuple[str, ...], dict[str, tuple[tuple[int, ...], ...]], tuple[str, ...]]:
    """Names of the tags, those of each example by split, in order, and the splits where none has one: no labels.

    Args:
        where: for messages.
        cells: the tags of each example, by split.
        locate: from a split and a row's place in it to where a person finds it, for messages.
        names: of all tags; None: those of train, sorted.
        by_number: the cells hold the numbers of `names`.

    Raises:
        ValueError: no tags; by split and row: a tag that train does not have.
    """
    kept = {split: part for split, part in cells.items() if any(map(len, part))}
    if not kept:
        raise ValueError(f"{where} holds no tag")
    if names is None:
        names = sorted({str(tag) for tags in kept.get("train", next(iter(kept.values()))) for tag in tags})
    refuse_lookalikes(where, names)
    index = {str(number) if by_number else name: number for number, name in enumerate(names)}
    labels = {}
    for split, part in kept.items():
        rows = []
        for row, tags in enumerate(part):
            unknown = next((str(tag) for tag in tags if str(tag) not in index), None)
            if unknown is not None:
                hint = suggest(unknown, index)
                raise ValueError(f"{locate(split, row)} has the tag {unknown!r}{hint}, and {listed([*index])}")
            rows.append(tuple(sorted({index[str(tag)] for tag in tags})))
        labels[split] = tuple(rows)
    return tuple(names), labels, tuple(split for split in cells if split not in kept)
