"""Sentences of words, each with a tag: CoNLL files, and columns of lists as `datasets` and JSON have them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...io.columns import asked_column, listed, no_column, only_column, refuse_lookalikes
from ..tasks import Task
from .split import PREDICT, TextSplit
from .tables import Table, decoded

CONLL = (".conll", ".iob", ".iob2", ".bio", ".txt", ".tsv")
_WORDS = ("tokens", "words")  # usual names of columns
_TAGS = ("ner_tags", "ner", "tags", "labels", "label", "pos_tags", "upos")
_ENTITY = re.compile(r"O|[BIES]-.+")  # what seqeval knows


def read_conll(path: Path) -> Table:
    """A word per line, columns between white space, an empty line behind each sentence.

    The columns are called by their numbers from 1. Lines `-DOCSTART-` are passed over, and so are lines that begin with
    `#` before the first word of a sentence and have another number of columns, which are comments.

    Raises:
        ValueError: not UTF-8, no word, or by line, another number of columns.
    """
    lines = [line.removesuffix("\r").split() for line in decoded(path).split("\n")]
    width = next((len(cells) for cells in lines if cells and cells[0] != "-DOCSTART-" and cells[0][0] != "#"), 0)
    if width == 0:
        raise ValueError(f"{path} holds no word")
    sentences: list[tuple[int, list[list[str]]]] = []
    open_sentence = False
    for number, cells in enumerate(lines, start=1):
        if not cells or cells[0] == "-DOCSTART-":
            open_sentence = False
        elif len(cells) == width:
            if not open_sentence:
                sentences.append((number, []))
            sentences[-1][1].append(cells)
            open_sentence = True
        elif open_sentence or not cells[0].startswith("#"):
            raise ValueError(
                f"{path}, line {number} has {len(cells)} columns, expected {width}: a CoNLL file has a word a line, "
                "its tag in the last column, and an empty line behind each sentence"
            )
    names = tuple(str(place) for place in range(1, width + 1))
    rows = [(number, dict(zip(names, zip(*words, strict=True), strict=True))) for number, words in sentences]
    return Table(str(path), path.name, names, rows)


def read_tagged(
    tables: Mapping[str, Table], task: Task, *, words: Sequence[str] | None, tags: str | None, needed: Collection[str]
) -> tuple[tuple[str, ...], dict[str, TextSplit]]:
    """Names of the tags, and by split sentences with their words as `texts`; without splits that have no tags.

    Names are those of the task, of the data set, or the tags of train, sorted; where these have prefixes (`B-PER`),
    each prefix that occurs goes with each type that occurs, as a small set need not hold all of them.

    Args:
        words, tags: columns that were asked for. needed: splits that are of no use without tags.

    Raises:
        ValueError: a column that is not there; by file and line: no list of words, tags of another number, an unknown
            tag, or for scores of entities one that is none (`O`, `B-PER`, `I-PER`).
    """
    read = {name: _sentences(table, words, tags, name in needed) for name, table in tables.items()}
    tagged = {name: part for name, part in read.items() if part[2] is not None}
    if not tagged:
        raise ValueError(f"{next(iter(tables.values())).where} has no tags; {PREDICT}")
    first = "train" if "train" in tagged else next(iter(tagged))
    column = tagged[first][3]
    classes = task.classes or tables[first].class_names.get(column) or _with_prefixes(tagged[first][2] or ())
    refuse_lookalikes(f"{column!r}", classes)
    index = {name: number for number, name in enumerate(classes)}
    splits = {}
    for name, (sentences, names, rows, _) in tagged.items():
        for place, tag in ((place, tag) for place, row in enumerate(rows or ()) for tag in row):
            if tag not in index:
                raise ValueError(f"{names[place]} has the tag {tag!r}, which train has not; {listed(classes)}")
            if "f1" in task.metrics and not _ENTITY.fullmatch(tag):
                raise ValueError(
                    f"{names[place]} has the tag {tag!r}, which is none of entities (O, B-PER, I-PER): say --task "
                    "tagging for scores of single words"
                )
        labels: Any = tuple(tuple(index[tag] for tag in row) for row in rows or ())
        splits[name] = TextSplit(sentences, labels, names)
    return classes, splits


def read_untagged(table: Table, words: Sequence[str] | None) -> TextSplit:
    """The sentences of one table, whose tags are not read."""
    sentences, names, _, _ = _sentences(table, words, None, False, tagged=False)
    return TextSplit(sentences, (), names)


def split_words(text: str) -> tuple[str, ...]:
    """The words and punctuation marks of a text that was typed, one by one as CoNLL files have them."""
    return tuple(re.findall(r"\w+|[^\w\s]", text))


def _sentences(
    table: Table, words: Sequence[str] | None, tags: str | None, needed: bool, *, tagged: bool = True
) -> tuple[tuple[tuple[str, ...], ...], tuple[str, ...], list[tuple[str, ...]] | None, str]:
    """Words, names and tags of each row, and the column of the tags; None for tags where there are none."""
    where, columns = table.where, table.columns
    is_conll = columns[0] == "1"
    if words and len(words) > 1:
        raise ValueError(f"--text-columns takes the one column of words, got {', '.join(words)}")
    if words:
        column = asked_column(where, columns, words[0], "--text-columns")
    else:
        found = "1" if is_conll else only_column(where, [c for c in columns if c in _WORDS], "words", "--text-columns")
        if found is None:
            raise no_column(where, columns, "tokens", "--text-columns")
        column = found
    label = _tag_column(table, tags, column, needed) if tagged else None
    sentences: list[tuple[str, ...]] = []
    rows: list[tuple[str, ...]] = []
    names: list[str] = []
    for number, cells in table.rows:
        names.append(f"{table.name}:{number}")
        sentences.append(_list(table, number, cells, column))
        if label is not None:
            rows.append(_list(table, number, cells, label))
            if len(rows[-1]) != len(sentences[-1]):
                raise ValueError(
                    f"{table.locate(number)} has {len(sentences[-1])} words and {len(rows[-1])} tags in {label!r}"
                )
    empty = label is None or all(tag in ("", "-1") for row in rows for tag in row)
    return tuple(sentences), tuple(names), None if empty else rows, label or ""


def _tag_column(table: Table, asked: str | None, words: str, needed: bool) -> str | None:
    where, columns = table.where, table.columns
    if asked is not None:
        return asked_column(where, columns, asked, "--label-column")
    if columns[0] == "1":
        label = columns[-1] if columns[-1] != words else None
    else:
        label = only_column(where, [c for c in columns if c in _TAGS and c != words], "tags", "--label-column")
    if label is None and needed:
        raise no_column(where, columns, "tags", "--label-column")
    return label


def _list(table: Table, number: int | str, cells: Mapping[str, Any], column: str) -> tuple[str, ...]:
    value = cells.get(column)
    if not isinstance(value, (list, tuple)) or not value or any(isinstance(item, (list, dict)) for item in value):
        raise ValueError(f"{table.locate(number)}: expected a list of words in {column!r}, got {value!r:.60}")
    return tuple(str(item) for item in value)


def _with_prefixes(rows: Sequence[Sequence[str]]) -> tuple[str, ...]:
    tags = set(itertools.chain.from_iterable(rows))
    inside = tags - {"O"}
    if inside and all(re.fullmatch(r"[BIESLU]-.+", tag) for tag in inside):
        pairs = itertools.product({tag[0] for tag in inside}, {tag[2:] for tag in inside})
        tags |= {f"{prefix}-{kind}" for prefix, kind in pairs}
    return tuple(sorted(tags))
