"""Which columns of a table hold the texts, and which the labels."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ...io.columns import asked_column, no_column, only_column
from ..tasks import Task

_TEXTS = (
    ("text",),
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("#1 String", "#2 String"),
)
_LABELS = ("label", "labels", "class", "category", "target", "score")


def text_layouts(task: Task, asked: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Names that the columns of texts may have, those asked for or those of the task.

    Raises:
        ValueError: other than one or two columns were asked for.
    """
    if asked is not None:
        if not 1 <= len(set(asked)) == len(asked) <= 2:
            raise ValueError(f"--text-columns: expected one column or two, got {', '.join(asked) or 'none'}")
        return [tuple(asked)]
    return [names for names in (task.columns, task.file_columns) if names] or list(_TEXTS)


def text_columns(where: str, columns: Collection[str], layouts: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The one layout whose columns are all there; of two, the one that holds more than the other.

    Raises:
        ValueError: there is none, or there are several.
    """
    there = [names for names in layouts if set(names) <= set(columns)]
    largest = [names for names in there if not any(set(names) < set(other) for other in there)]
    if largest:
        several = [" and ".join(names) for names in largest]
        only_column(where, several, "texts", "--text-columns")
        return largest[0]
    wanted = min(layouts, key=lambda names: len(set(names) - set(columns)))
    missing = next(name for name in wanted if name not in columns)
    raise no_column(where, columns, missing, "--text-columns", taken=wanted)


def label_column(where: str, columns: Collection[str], task: Task, asked: str | None, *, needed: bool) -> str | None:
    """The column asked for, or the task's, or the one of a usual name; None where there is no such column.

    Raises:
        ValueError: the column asked for or needed is not there, or there are several of a usual name.
    """
    if asked is not None:
        return asked_column(where, columns, asked, "--label-column")
    if task.kind == "masked":
        return None
    names = [name for name in (task.label, task.file_label) if name]
    if names:
        column = next((name for name in names if name in columns), None)
    else:
        column = only_column(where, [name for name in columns if name.lower() in _LABELS], "labels", "--label-column")
    if column is None and needed:
        raise no_column(where, columns, task.label or "label", "--label-column")
    return column
