"""Tables of texts, row by row: files (tsv, csv, JSON, or a document per line), or what `datasets` has read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from ...io.columns import listed_columns
from ..tasks import Task

SUFFIXES = (".tsv", ".csv", ".jsonl", ".json")
_LONGEST_CELL = 2**31 - 1  # the largest limit that csv takes on every platform
_AT_ONCE = 1000  # rows that are taken from a data set together

Row = tuple[int | str, Mapping[str, Any]]  # its number, or its file's name, and cells by column


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

    def locate(self, number: int | str) -> str:
        """Where a person finds a row."""
        return f"{self.where}, {self.unit} {number}"


def table_of(spec: str, split: str, rows: Any) -> Table:
    """A split as `datasets` holds it; a class stands there by its name, and a missing one (-1) as None."""
    import datasets

    kinds = dict(rows.features)
    inner = {column: getattr(kind, "feature", kind) for column, kind in kinds.items()}  # of a list, its items' kind
    names = {column: tuple(kind.names) for column, kind in inner.items() if isinstance(kind, datasets.ClassLabel)}

    def name_of(classes: tuple[str, ...], label: Any) -> Any:
        if isinstance(label, list):
            return [name_of(classes, item) for item in label]
        return None if label is None or label < 0 else classes[label]

    def named() -> Iterator[Row]:
        batches = rows.iter(_AT_ONCE)  # row by row it takes 80 times as long
        cells = chain.from_iterable(zip(*batch.values(), strict=True) for batch in batches)
        for number, values in enumerate(cells):
            row = dict(zip(kinds, values, strict=True))
            for column, classes in names.items():
                row[column] = name_of(classes, row[column])
            yield number, row

    return Table(f"{split} of {spec}", split, tuple(kinds), named(), unit="row", class_names=names)


def read_file(path: Path, task: Task, layouts: list[tuple[str, ...]]) -> Table:
    """A file by its suffix, in UTF-8.

    - .tsv: cells between tabs, as they are: quotes are part of the text;
    - .csv: cells between commas, quoted as spreadsheets do it, and then perhaps over several lines;
    - .jsonl: an object per line;
    - .json: a list of objects, an object of columns (lists, or pandas' objects by index), or lines as in .jsonl;
    - any other: a document per line, in the column `text`; lines without text are passed over.

    Args:
        task: with names of the columns, where a published file has none: then its first line names them only if it
            holds one of the layouts. In a file that is known to be flawed, the number of cells may be wrong.
        layouts: names that the columns of texts may have.

    Raises:
        ValueError: by file and line: not UTF-8, nothing in it, no JSON, a wrong number of cells.
    """
    content = decoded(path)
    if not content.strip():
        raise ValueError(f"{path} is empty")
    suffix = path.suffix.lower()
    if suffix not in (".tsv", ".csv"):
        documents = ((number, {"text": line}) for number, line in _lines(content) if line.strip())
        records = _records(path, content) if suffix == ".json" else None
        rows = _objects(path, content) if suffix in (".json", ".jsonl") else documents
        rows, unit = (rows, "line") if records is None else (iter(records), "record")
        first = next(rows)
        return Table(str(path), path.name, tuple(first[1]), chain([first], rows), unit=unit)
    lines = _quoted(path, content) if suffix == ".csv" else ((n, line.split("\t")) for n, line in _lines(content))
    top, cells = next(lines)
    header = task.header
    if len(cells) == len(header) and not any(set(names) <= set(cells) for names in layouts):
        lines = chain([(top, cells)], lines)
    else:
        header = tuple(cells)
        if len(set(header)) < len(header):
            raise ValueError(f"{path}, line {top} names a column twice: {listed_columns(header)}")
    return Table(str(path), path.name, header, _named(path, header, lines, task.flawed))


def decoded(path: Path) -> str:
    """The text of a file in UTF-8. Raises ValueError by line where it is not."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise ValueError(f"{path}, line {line} is not UTF-8 (byte 0x{byte:02x}): save the file as UTF-8") from error


def _lines(content: str) -> Iterator[tuple[int, str]]:
    """Numbered lines that are not empty; a character such as U+2028 ends none, as it would with `splitlines`."""
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removesuffix("\r")
        if line:
            yield number, line


def _quoted(path: Path, content: str) -> Iterator[tuple[int, list[str]]]:
    """Rows by the line on which they begin."""
    rows, number = [], 1
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    # documents are longer than what csv takes for a broken file; the limit is one for the whole process
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        for cells in reader:
            if cells:
                rows.append((number, cells))
            number = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"{path}, line {number} cannot be read as csv: {error}") from error
    finally:
        csv.field_size_limit(limit)
    return iter(rows)


def _records(path: Path, content: str) -> list[Row] | None:
    """Numbered records of a JSON file that is one value; None where it is a value per line."""
    try:
        value = json.loads(content)
    except ValueError as error:
        if str(error).startswith("Extra data"):
            return None
        raise ValueError(f"{path} is no JSON: {error}") from error
    if isinstance(value, dict) and value:
        columns = [list(cells.values()) if isinstance(cells, dict) else cells for cells in value.values()]
        if all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns):
            value = [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    if not isinstance(value, list) or not value or not all(isinstance(row, dict) for row in value):
        raise ValueError(
            f'{path}: expected a list of objects such as [{{"text": ..., "label": ...}}, ...], or an object of columns '
            f"of one length, got {content.strip()[:40]!r}"
        )
    return list(enumerate(value, start=1))


def is_squad(path: Path) -> bool:
    """Whether a JSON file has SQuAD's form, an object with the key `data`."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError:
        return False
    return isinstance(value, dict) and "data" in value


def _objects(path: Path, content: str) -> Iterator[Row]:
    for number, line in _lines(content):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is no JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(
                f'{path}, line {number}: expected an object such as {{"text": ..., "label": ...}}, got {line[:40]!r}'
            )
        yield number, row


def _named(path: Path, header: tuple[str, ...], lines: Iterable[tuple[int, list[str]]], flawed: bool) -> Iterator[Row]:
    for number, cells in lines:
        if len(cells) != len(header) and not flawed:
            raise ValueError(
                f"{path}, line {number} has {len(cells)} columns, expected {len(header)}: {listed_columns(header)}"
            )
        yield number, dict(zip(header, cells, strict=False))
