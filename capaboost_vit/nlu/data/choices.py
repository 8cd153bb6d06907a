"""Multiple choice: a context, texts of which one goes on with it or answers it, and which one that is."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from ...io.columns import LabelColumn, asked_column, labelled, no_column, only_column
from .columns import LABELS, plain_label, text_of
from .split import PREDICT, TextSplit
from .tables import Table

_CONTEXTS = ("context", "question", "premise", "sentence", "text")  # usual names of columns
_LISTS = ("choices", "options", "endings", "answers")
_NUMBERED = re.compile(r"(choice|option|ending|answer)[ _]?([0-9]+|[a-z])", re.IGNORECASE)
_LABELS = (*LABELS, "answer", "answerkey", "answer_key", "correct")


class _Rows(NamedTuple):
    texts: tuple[tuple[str, ...], ...]  # the context, then its choices
    names: tuple[str, ...]
    labels: LabelColumn  # without cells where the table has none


def read_choices(
    tables: Mapping[str, Table], *, texts: Sequence[str] | None, label: str | None, needed: Collection[str]
) -> dict[str, TextSplit]:
    """By split context and choices of each example, and the number of the right one; without splits that lack it.

    A label is the text of the right choice, its number from 0, or its letter from A: one of these in all rows.

    Args:
        texts: `--text-columns`: that of contexts, then those of choices, or one of lists; None: by usual names.
        label: the column that was asked for. needed: splits that are of no use without labels.

    Raises:
        ValueError: a column that is not there; by file and line: an empty text, fewer than two choices, a label that is
            none of these; labels that can be read in two ways.
    """
    rows = {name: _read(table, texts, label, needed=name in needed) for name, table in tables.items()}
    columns = {name: part.labels for name, part in rows.items()}
    where = next(iter(tables.values())).where
    if not columns.keys() & set(needed) and all(column.is_empty for column in columns.values()):
        raise ValueError(f"{where} has no labels; {PREDICT}")
    kept = labelled(where, columns, needed=needed)
    labels = _numbered(kept, {name: [row[1:] for row in rows[name].texts] for name in kept})
    return {name: TextSplit(rows[name].texts, labels[name], rows[name].names) for name in kept}


def read_unchosen(table: Table, texts: Sequence[str] | None) -> TextSplit:
    """Contexts and choices of one table, whose labels are not read."""
    rows = _read(table, texts, None, needed=False, to_label=False)
    return TextSplit(rows.texts, (), rows.names)


def _read(
    table: Table, texts: Sequence[str] | None, asked: str | None, *, needed: bool, to_label: bool = True
) -> _Rows:
    context, choices = _columns(table, texts)
    label = _label_column(table, asked, {context, *choices}, needed=needed) if to_label else None
    found: list[tuple[str, ...]] = []
    numbers: list[int | str] = []
    cells: list[Any] = []
    for number, row in table.rows:
        text = text_of(table, number, row, context)
        if not text.strip():
            raise ValueError(f"{table.locate(number)}: the text in {context!r} is empty")
        found.append((text, *_choices(table, number, row, choices)))
        numbers.append(number)
        if label is not None:
            if label not in row:
                raise ValueError(f"{table.locate(number)} has no {label!r}; it has: {', '.join(row)}")
            cells.append(row[label])
    if not found:
        raise ValueError(f"{table.where} has no rows")
    names = tuple(f"{table.name}:{number}" for number in numbers)
    labels = LabelColumn(label or "", cells, lambda index: table.locate(numbers[index]), plain=plain_label)
    return _Rows(tuple(found), names, labels)


def _columns(table: Table, asked: Sequence[str] | None) -> tuple[str, tuple[str, ...]]:
    """The column of contexts, and those of choices, or the one that holds them as lists."""
    where, columns = table.where, table.columns
    if asked:
        if len(asked) < 2:
            raise ValueError(f"--text-columns {asked[0]}: say the column of contexts, then those of choices")
        context, *choices = (asked_column(where, columns, name, "--text-columns") for name in asked)
        return context, tuple(choices)
    found = only_column(where, [c for c in columns if c.lower() in _CONTEXTS], "contexts", "--text-columns")
    if found is None:
        raise no_column(where, columns, "context", "--text-columns")
    lists = only_column(where, [c for c in columns if c.lower() in _LISTS], "choices", "--text-columns")
    numbered = tuple(c for c in columns if _NUMBERED.fullmatch(c))
    if lists is None and len(numbered) < 2:
        raise no_column(where, columns, "choices", "--text-columns", taken=(found,))
    return found, numbered if lists is None else (lists,)


def _label_column(table: Table, asked: str | None, taken: Collection[str], *, needed: bool) -> str | None:
    where, columns = table.where, table.columns
    if asked is not None:
        return asked_column(where, columns, asked, "--label-column")
    usual = [name for name in columns if name.lower() in _LABELS and name not in taken]
    label = only_column(where, usual, "labels", "--label-column")
    if label is None and needed:
        raise no_column(where, columns, "label", "--label-column", taken=taken)
    return label


def _choices(table: Table, number: int | str, row: Mapping[str, Any], columns: Sequence[str]) -> tuple[str, ...]:
    """Those of an example: a list, or cells, of which the last ones are empty where it has fewer than others."""
    if len(columns) == 1:
        cells = row.get(columns[0])
        if not isinstance(cells, list | tuple) or not all(isinstance(cell, str) for cell in cells):
            raise ValueError(f"{table.locate(number)}: expected a list of texts in {columns[0]!r}, got {cells!r:.60}")
        choices = tuple(cells)
    else:
        filled = {**row, **{name: "" for name in columns if row.get(name) is None}}
        choices = tuple(text_of(table, number, filled, name) for name in columns)
        while choices and not choices[-1].strip():
            choices = choices[:-1]
    for place, choice in enumerate(choices):
        if not choice.strip():
            raise ValueError(f"{table.locate(number)}: choice {place} (from 0) is empty, and others follow")
    if len(choices) < 2:
        raise ValueError(f"{table.locate(number)} has {len(choices)} choices in {', '.join(columns)}: two are needed")
    return choices


def _of_text(cell: Any, choices: Sequence[str]) -> int | None:
    same = [place for place, choice in enumerate(choices) if choice.strip() == str(cell).strip()]
    return same[0] if len(same) == 1 else None


def _of_number(cell: Any, choices: Sequence[str]) -> int | None:
    value = plain_label(cell)
    return value if isinstance(value, int) and 0 <= value < len(choices) else None


def _of_letter(cell: Any, choices: Sequence[str]) -> int | None:
    letter = str(cell).strip().upper()
    return ord(letter) - ord("A") if re.fullmatch("[A-Z]", letter) and ord(letter) - ord("A") < len(choices) else None


_READINGS: dict[str, Callable[[Any, Sequence[str]], int | None]] = {
    "the texts of choices": _of_text,
    "their numbers from 0": _of_number,
    "their letters from A": _of_letter,
}


def _numbered(
    columns: Mapping[str, LabelColumn], choices: Mapping[str, Sequence[Sequence[str]]]
) -> dict[str, tuple[int, ...]]:
    """The number of the right choice of each row, in the one way in which all labels of all splits can be read."""
    rows = [
        (column, place, choices[name][place]) for name, column in columns.items() for place in range(len(column.cells))
    ]
    read = {how: [of(column.cells[i], texts) for column, i, texts in rows] for how, of in _READINGS.items()}
    whole = {how: found for how, found in read.items() if None not in found}
    if not whole:
        best = min(read.values(), key=lambda found: found.count(None))
        column, place, texts = rows[best.index(None)]
        last = len(texts) - 1
        raise ValueError(
            f"{column.locate(place)} has the label {column.cells[place]!r} in {column.name!r}; expected the number of "
            f"a choice, 0 to {last}, its letter, A to {chr(ord('A') + last)}, or its text"
        )
    (how, found), *others = whole.items()
    for other, numbers in others:
        if numbers != found:
            raise ValueError(
                f"the labels in {rows[0][0].name!r} can be {how} or {other}, which are other choices: write letters, "
                "or texts that are no numbers"
            )
    numbers_of = iter(found)
    return {name: tuple(next(numbers_of) or 0 for _ in column.cells) for name, column in columns.items()}
