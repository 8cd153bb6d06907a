"""Texts with several tags: columns of lists, texts `a;b` or `a|b`, or a column of 0 and 1 for each tag."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ...io.columns import asked_column, no_column, only_column
from ...io.tags import is_switch, number_tags, tags_of_cell, tags_of_switches
from ..tasks import Task
from .columns import LABELS, read_rows
from .split import PREDICT, TextSplit
from .tables import Table

_SWITCH = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "false": 0, "true": 1}
_EMPTY = (None, "", "-1", -1)


def read_multi_label(
    tables: Mapping[str, Table],
    task: Task,
    *,
    layouts: list[tuple[str, ...]],
    asked: str | None,
    needed: Collection[str],
) -> tuple[tuple[str, ...], dict[str, TextSplit]]:
    """Names of the tags, and by split texts with the numbers of theirs; without splits where no text has a tag.

    Names are those of the task, of the data set, of the columns of 0 and 1, or the tags of train, sorted.

    Args:
        asked: `--label-column`: one column, or several of 0 and 1, `a,b,c`; None: one of a usual name, else all columns
            of 0 and 1.
        needed: splits that are of no use without tags.

    Raises:
        ValueError: what `read_rows` refuses; a column that is not there or holds others than 0 and 1; by file and line:
            a cell that holds no tags, a tag that train does not have.
    """
    tables = {name: replace(table, rows=[*table.rows]) for name, table in tables.items()}
    reading = replace(task, kind="masked")  # labels are not looked for
    rows = {name: read_rows(t, reading, layouts=layouts, asked=None, needs_labels=False) for name, t in tables.items()}
    where = next(iter(tables.values())).where
    first = "train" if "train" in tables else next(iter(tables))
    columns = _tag_columns(tables[first], task, asked, needed=first in needed)
    labelled = {name: t for name, t in tables.items() if name in needed or set(columns) <= set(t.columns)}
    if not columns or not labelled:
        raise ValueError(f"{where} has no tags; {PREDICT}")
    cells = {name: [_cells(table, column) for column in columns] for name, table in labelled.items()}
    # test sets are often published with -1 in each row
    cells = {name: part for name, part in cells.items() if any(cell not in _EMPTY for row in part for cell in row)}

    def locate(split: str, row: int) -> str:
        return tables[split].locate([number for number, _ in tables[split].rows][row])

    tags: dict[str, list[Sequence[Any]]] = {}
    if columns[1:]:
        names = task.classes or columns
        switches = {name: [[*map(_switch, row)] for row in part] for name, part in cells.items()}
        for name, numbers in tags_of_switches(where, columns, switches).items():
            tags[name] = [[columns[number] for number in row] for row in numbers]
    else:
        names = task.classes or tables[first].class_names.get(columns[0], ())
        for name, (part,) in cells.items():
            tags[name] = [_tags(cell, columns[0], partial(locate, name, row)) for row, cell in enumerate(part)]
    if first in needed and not any(tags.get(first, ())):
        raise ValueError(f"{where} holds no tag in {', '.join(columns)}: choose with --label-column")
    classes, labels, _ = number_tags(where, tags, locate=locate, names=names or None)
    return classes, {name: TextSplit(rows[name].texts, labels[name], rows[name].names) for name in labels}


def _tag_columns(table: Table, task: Task, asked: str | None, *, needed: bool) -> tuple[str, ...]:
    """The column of tags; or several, a tag each: those asked for, those of the classes, or all of 0 and 1."""
    where, columns = table.where, table.columns
    if asked is not None and asked not in columns and "," in asked:
        return tuple(asked_column(where, columns, name.strip(), "--label-column") for name in asked.split(","))
    if asked is not None:
        found: str | None = asked_column(where, columns, asked, "--label-column")
    else:
        usual = [name for name in columns if name.lower() in (*LABELS, "tags")]
        found = only_column(where, usual, "tags", "--label-column")
    if found is None:
        if task.classes and set(task.classes) <= set(columns):
            return task.classes
        switches = tuple(name for name in columns if is_switch([*map(_switch, _cells(table, name))]))
        if not switches[1:] and needed:
            raise no_column(where, columns, "labels", "--label-column")
        return switches if switches[1:] else ()
    if is_switch([*map(_switch, _cells(table, found))]):
        raise ValueError(
            f"{where}: the column {found!r} holds 0 and 1, which is one tag: name several, --label-column a,b,c, or "
            "say --task classification"
        )
    return (found,)


def _switch(cell: Any) -> Any:
    """0 or 1, also where a file holds it as text; else the cell."""
    return cell if isinstance(cell, list) else _SWITCH.get(str(cell).strip().lower(), cell)


def _cells(table: Table, column: str) -> list[Any]:
    cells = []
    for number, row in table.rows:
        if column not in row:
            raise ValueError(f"{table.locate(number)} has no {column!r}; it has: {', '.join(row)}")
        cells.append(row[column])
    return cells


def _tags(cell: Any, column: str, locate: Callable[[], str]) -> Sequence[Any]:
    tags = tags_of_cell(cell)
    if isinstance(cell, dict) or not all(isinstance(tag, str | int) and str(tag).strip() for tag in tags):
        raise ValueError(f"{locate()}: expected a list of tags or a text `a;b` in {column!r}, got {cell!r:.60}")
    return tags
