"""Rows of texts from a file or a hub set, one at a time, in one shape."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUFFIXES = (".tsv", ".csv", ".jsonl")
_LONGEST_CELL = 2**31 - 1  # the largest limit that csv takes on every platform


@dataclass(frozen=True)
class Table:
    """The rows of one split, read once.

    Args:
        whole: the file, or the split of a hub set, as messages name it.
        name: as its examples are named: `train.tsv`.
        unit: what is counted: lines of a file from 1, rows of a hub set from 0.
        columns: names of all columns, those of the first row where each row names its own.
        rows: number and cells by column. A row of a file that has too few cells for its header lacks the last ones if
            the file is known to be flawed, and is an error else.
        class_names: of integer labels by column, where the data tells them.
    """

    whole: str
    name: str
    unit: str
    columns: tuple[str, ...]
    rows: Iterable[tuple[int, Mapping[str, Any]]]
    class_names: Mapping[str, tuple[str, ...]]

    def locate(self, number: int) -> str:
        """Where a person finds a row."""
        return f"{self.whole}, {self.unit} {number}"


def read_file(path: Path, *, texts: list[tuple[str, ...]], header: tuple[str, ...] = (), flawed: bool = False) -> Table:
    """A file by its suffix, in UTF-8.

    - .tsv: cells between tabs, as they are: quotes are part of the text;
    - .csv: cells between commas, quoted as spreadsheets do it, and then perhaps over several lines;
    - .jsonl: an object per line;
    - any other: a document per line, in the column `text`; lines without text are passed over.

    Args:
        texts: columns of texts, one of which tells that the first line of a tsv or csv names the columns.
        header: names of the columns of a file whose first line does not; none: its first line does.
        flawed: rows with other than the header's number of cells are no error.

    Raises:
        ValueError: by file and line: not UTF-8, nothing in it, no JSON, a wrong number of cells.
    """
    content = _decoded(path)
    if not content.strip():
        raise ValueError(f"{path} is empty")
    rows: Iterator[tuple[int, Mapping[str, Any]]]
    if path.suffix.lower() not in (".tsv", ".csv"):
        rows = _objects(path, content) if path.suffix.lower() == ".jsonl" else _documents(content)
        number, first = next(rows)
        return Table(str(path), path.name, "line", tuple(first), _chained((number, first), rows), {})
    lines = _tabbed(content) if path.suffix.lower() == ".tsv" else _quoted(path, content)
    top, cells = next(lines)
    if len(cells) == len(header) and not any(set(names) <= set(cells) for names in texts):
        lines = _chained((top, cells), lines)
    else:
        header = tuple(cells)
        if len(set(header)) < len(header):
            raise ValueError(f"{path}, line {top} names a column twice: {', '.join(_short(header))}")
    return Table(str(path), path.name, "line", header, _named(path, header, lines, flawed), {})


def _decoded(path: Path) -> str:
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


def _tabbed(content: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, line.split("\t")) for number, line in _lines(content))


def _quoted(path: Path, content: str) -> Iterator[tuple[int, list[str]]]:
    """Rows by the line on which they begin."""
    reader = csv.reader(io.StringIO(content, newline=""), strict=True)
    number = 1
    while True:
        try:
            with _long_cells():
                cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"{path}, line {number} cannot be read as csv: {error}") from error
        if cells is None:
            return
        if cells:
            yield number, cells
        number = reader.line_num + 1


@contextmanager
def _long_cells() -> Iterator[None]:
    """Documents are longer than what csv takes for a broken file; the limit is one for the whole process."""
    limit = csv.field_size_limit(_LONGEST_CELL)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _objects(path: Path, content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
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


def _documents(content: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    return ((number, {"text": line}) for number, line in _lines(content) if line.strip())


def _named(
    path: Path, header: tuple[str, ...], lines: Iterator[tuple[int, list[str]]], flawed: bool
) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, cells in lines:
        if len(cells) != len(header) and not flawed:
            raise ValueError(
                f"{path}, line {number} has {len(cells)} columns, expected {len(header)}: {', '.join(_short(header))}"
            )
        yield number, dict(zip(header, cells, strict=False))


def _chained(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
    yield first
    yield from rest


def _short(names: Iterable[str]) -> list[str]:
    """Names for a message: a first line that holds no names may hold texts."""
    return [name if len(name) <= 30 else name[:30] + "..." for name in names]
