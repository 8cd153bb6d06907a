"""From what stands behind `--data` to a data set of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...io.tables import SPLIT_NAMES, by_split, is_hub_name, is_table_folder, load_from_hub, load_local
from ..tasks import Task
from .choices import read_choices, read_unchosen
from .class_folders import read_class_folders, read_text_files, text_files
from .columns import TEXTS, number_labels, read_rows
from .split import PROTOCOLS, TextData, TextSplit, apply_protocol
from .tables import SUFFIXES, Table, read_file, table_of
from .tags import read_multi_label
from .words import CONLL, read_conll, read_tagged, read_untagged

_SPLITS = dict(SPLIT_NAMES)
for _name in ("validation", "dev", "test"):  # MNLI has two of them
    _SPLITS |= {f"{_name}_matched": _SPLITS[_name], f"{_name}_mismatched": f"{_SPLITS[_name]}_mismatched"}
_NEED_LABELS = ("train", "val")
_INSTEAD = "give a local folder or file (.tsv, .csv, .jsonl) instead"


def open_texts(
    spec: str,
    task: Task,
    *,
    protocol: str | None = None,
    seed: int = 0,
    text_columns: Sequence[str] | None = None,
    label_column: str | None = None,
    draw_val: bool = False,
) -> TextData[TextSplit]:
    """Reads the texts and labels of a task. A local path wins over other readings.

    - a folder with train, dev (or val, valid, validation) and test (.tsv, .csv, .jsonl, .json), such as one of GLUE's;
    - a folder that holds such a folder under the task's name or its published one, such as GLUE's, or as all it holds;
    - of classes, folders of .txt files, `train/CLASS/*.txt` or `CLASS/*.txt`, see `read_class_folders`;
    - one such file: the split that its name tells, else train; for masked tokens it is train;
    - a folder that `datasets` saved, or that holds parquet files;
    - `owner/name` or `owner/name:config`: a data set of the Hugging Face hub; `hub`: the task's own there.

    Of words with tags .conll, .iob, .bio, .txt and .tsv are CoNLL files, and tables hold lists (see `words.py`).
    For masked tokens a .txt file holds a document per line, and labels are not read.

    Args:
        task: `dataclasses.replace(task, classes=...)` reads a file with the classes of a model that was trained before.
        protocol: of the splits (see `nlu.data.split`), with the seed of what it draws; None takes the task's.
        draw_val: where the files have no val, and nobody has asked for a protocol, draw it, as the protocol `drawn`.
        text_columns, label_column: the columns of texts, and that of labels or scores; None finds them by their usual
            names.

    Raises:
        FileNotFoundError: no such path or hub set, or the hub cannot be reached.
        ValueError: nothing usable there, or something that is wrong, by file and line.
    """
    if task.kind == "questions":
        raise ValueError(f"the task {task.name} asks questions on texts: its files are not read here")
    chosen = protocol or task.protocol
    if chosen not in PROTOCOLS:
        raise ValueError(f"unknown split protocol {chosen!r}: choose {', '.join(PROTOCOLS)}")
    layouts = _layouts(task, text_columns)
    path = Path(spec).expanduser()
    one_file = bool(spec.strip()) and path.is_file()
    tables = _tables(spec, path, task, layouts)
    if "train" not in tables and not one_file:
        raise ValueError(f"{spec} has no train split; it has: {', '.join(tables)}. To evaluate, name its file")
    left_out: dict[str, int] = {}
    if task.kind == "tokens":
        classes, splits = read_tagged(tables, task, words=text_columns, tags=label_column, needed=_NEED_LABELS)
    elif task.kind == "multi-label":
        classes, splits = read_multi_label(tables, task, layouts=layouts, asked=label_column, needed=_NEED_LABELS)
    elif task.kind == "multiple-choice":
        classes = ()
        splits = read_choices(tables, texts=text_columns, label=label_column, needed=_NEED_LABELS)
    else:
        rows = {
            name: read_rows(table, task, layouts=layouts, asked=label_column, needs_labels=name in _NEED_LABELS)
            for name, table in tables.items()
        }
        columns = {name: part.labels for name, part in rows.items()}
        classes, labels = number_labels(next(iter(tables.values())).where, task, columns, needed=_NEED_LABELS)
        splits = {name: TextSplit(rows[name].texts, labels[name], rows[name].names) for name in labels}
        left_out = {name: part.left_out for name, part in rows.items() if part.left_out}
    unlabelled = tuple(name for name in tables if name not in splits) if chosen in ("own", "drawn") else ()
    if draw_val and protocol is None and chosen == "own" and "train" in splits and "val" not in splits:
        chosen = "drawn"
    splits = apply_protocol(spec, splits, protocol=chosen, seed=seed)
    return TextData(spec, classes, splits, unlabelled, chosen, left_out)


def open_unlabelled(
    spec: str, task: Task, *, text_columns: Sequence[str] | None = None, files: Sequence[Path] | None = None
) -> dict[str, TextSplit]:
    """The texts of the test splits, or of one file whatever its name, without labels, in the order of the rows.

    Of a folder of .txt files alone each file is a text.

    Args:
        files: the `text_files` of the folder, where the caller has looked for them already.

    Raises:
        FileNotFoundError, ValueError: what `open_texts` refuses; no test split; a broken row, which would shift others.
    """
    layouts, path = _layouts(task, text_columns), Path(spec).expanduser()
    reading = replace(task, kind="masked")  # labels are not looked for
    files = text_files(spec) if files is None else files
    if files or (path.suffix.lower() == ".txt" and path.is_file()):
        layouts = [("text",)]  # a file, or a line of one, is a text, whatever its column was called in training
    tables = {"test": read_text_files(path, files)} if files else _tables(spec, path, reading, layouts)
    if not files and not path.is_file():
        wanted = {name: table for name, table in tables.items() if name.startswith("test")}
        if not wanted:
            raise ValueError(f"{spec} has no test split; it has: {', '.join(tables)}. Name a file")
        tables = wanted
    rows = {
        name: read_rows(table, reading, layouts=layouts, asked=None, needs_labels=False)
        for name, table in tables.items()
    }
    for name, part in rows.items():
        if part.left_out:
            raise ValueError(
                f"{tables[name].where} has {part.left_out} broken rows, and each has to have its prediction"
            )
    return {name: TextSplit(part.texts, (), part.names) for name, part in rows.items()}


def open_untagged(path: Path, task: Task, *, words: Sequence[str] | None = None) -> TextSplit:
    """The sentences of one file, CoNLL or JSON, whose tags are not read. Raises FileNotFoundError, ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: give {', '.join((*CONLL, '.jsonl', '.json'))}")
    ((_, table),) = _tables(str(path), path, task, []).items()
    return read_untagged(table, words)


def open_unchosen(path: Path, task: Task, *, text_columns: Sequence[str] | None = None) -> TextSplit:
    """Contexts and choices of one file, whose labels are not read. Raises FileNotFoundError, ValueError."""
    if not path.is_file():
        raise FileNotFoundError(f"no file at {path}: give {', '.join(SUFFIXES)}")
    ((_, table),) = _tables(str(path), path, task, []).items()
    return read_unchosen(table, text_columns)


def _layouts(task: Task, text_columns: Sequence[str] | None) -> list[tuple[str, ...]]:
    """Names that the columns of texts may have."""
    asked = (text_columns,) if text_columns else (task.columns, task.file_columns)
    return [tuple(names) for names in asked if names] or list(TEXTS)


def _tables(spec: str, path: Path, task: Task, layouts: list[tuple[str, ...]]) -> dict[str, Table]:
    """The tables by split."""
    suffixes = {"masked": (*SUFFIXES, ".txt"), "tokens": (*CONLL, ".jsonl", ".json")}.get(task.kind, SUFFIXES)
    if spec.strip() and path.is_dir():
        named = {file.name: file for file in sorted(path.iterdir()) if file.suffix.lower() in suffixes}
        files = {split: named[name] for split, name in by_split(spec, named, _SPLITS).items()}
        for name in (task.folder, task.name):
            if "train" not in files and name and (path / name).is_dir():
                return _tables(str(path / name), path / name, task, layouts)
        if not files and is_table_folder(path):
            return _of_datasets(spec, load_local(path))
        if not files and task.kind == "classification" and (tables := read_class_folders(spec, path)):
            return tables
        below = [folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith(".")]
        if not files and len(below) == 1:
            return _tables(str(below[0]), below[0], task, layouts)
        if not files:
            inside = f", and no folder {task.folder}" if task.folder else ""
            raise ValueError(f"{spec} holds no train file ({', '.join(suffixes)}){inside}")
        return {name: _read(file, task, layouts) for name, file in files.items()}
    if path.is_file():
        if path.suffix.lower() not in suffixes:
            raise ValueError(f"{spec} is none of {', '.join(suffixes)}")
        split = "train" if task.kind == "masked" else _SPLITS.get(path.stem.lower(), "train")
        return {split: _read(path, task, layouts)}
    if spec == "hub":
        if task.hub is None:
            raise ValueError(f"task {task.name} has no data set on the hub that we know of: give a folder, --data DIR")
        spec = ":".join(filter(None, task.hub))
    if is_hub_name(spec, suffixes=suffixes):
        return _of_datasets(spec, load_from_hub(spec, what="data", instead=_INSTEAD))
    or_hub = ", or hub" if task.hub else ""
    raise FileNotFoundError(
        f"no data at {spec!r}: give a folder, or a file ({', '.join(suffixes)}), or owner/name on the hub{or_hub}"
    )


def _read(path: Path, task: Task, layouts: list[tuple[str, ...]]) -> Table:
    is_conll = task.kind == "tokens" and path.suffix.lower() in CONLL
    return read_conll(path) if is_conll else read_file(path, task, layouts)


def _of_datasets(spec: str, splits: Mapping[str, Any]) -> dict[str, Table]:
    names = by_split(spec, splits, _SPLITS, others=True)
    return {split: table_of(spec, name, splits[name]) for split, name in names.items()}
