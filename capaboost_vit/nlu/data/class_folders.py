"""Folders of .txt files as texts: a folder for each class, alone or inside folders of splits; or without labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ...io.tables import SPLIT_NAMES, by_split
from .tables import SUFFIXES, Row, Table, decoded

_SUFFIX = ".txt"


def read_class_folders(spec: str, path: Path) -> dict[str, Table]:
    """Tables of `text` and `label` by split, of `train/CLASS/*.txt`, or `CLASS/*.txt`, which is train; else none.

    A file, in UTF-8 and at any depth below its class, is one text, without the white space around it; its class is the
    name of the folder. What is hidden is not there. Where a `labeledBow.feat` stands beside the classes, they are those
    of the Large Movie Review Dataset (aclImdb): lists of addresses and the folder `unsup`, reviews without labels, are
    left out.

    Raises:
        ValueError: folders of splits beside others that hold texts, or two of one split; texts beside folders of
            classes; a class without a .txt file, or with a file of another kind.
    """
    folders = {folder.name: folder for folder in _visible(path) if folder.is_dir()}
    named = by_split(spec, [name for name in folders if name.lower() in SPLIT_NAMES], SPLIT_NAMES)
    roots = {split: folders[name] for split, name in named.items()} or {"train": path}
    if not any(_texts(folder, deep=False) for root in roots.values() for folder in _visible(root) if folder.is_dir()):
        return {}
    others = [name for name in folders if name not in named.values() and _texts(folders[name], deep=True)]
    if named and others:
        raise ValueError(
            f"{spec} holds {next(iter(named.values()))!r}, a split, beside {others[0]!r}: put folders of classes into "
            "one called train, or rename the first"
        )
    return {
        split: Table(str(root), split, ("text", "label"), _rows(root), unit="file") for split, root in roots.items()
    }


def text_files(spec: str) -> list[Path]:
    """The .txt files of a folder, at any depth; none of one that holds something which is read as a table."""
    found, path = [], Path(spec).expanduser()
    for entry in _within(path) if spec.strip() and path.is_dir() else ():
        suffix = entry.suffix.lower()
        if suffix in (*SUFFIXES, ".parquet", ".arrow") and entry.is_file():
            return []
        if suffix == _SUFFIX and entry.is_file():
            found.append(entry)
    return found


def read_text_files(path: Path, files: Sequence[Path]) -> Table:
    """A table of `text` of .txt files in a folder, in UTF-8: each is one text, named `FOLDER:path/in/it.txt`."""
    rows = ((file.relative_to(path).as_posix(), _text(file)) for file in files)
    return Table(str(path), path.name, ("text",), ((name, {"text": text}) for name, text in rows), unit="file")


def _rows(root: Path) -> Iterator[Row]:
    reviews = (root / "labeledBow.feat").is_file()  # aclImdb
    if not reviews and (loose := _texts(root, deep=False)):
        raise ValueError(f"{loose[0]} stands beside folders of classes: put it into one of them, or move it away")
    for folder in _visible(root):
        if not folder.is_dir() or (reviews and folder.name == "unsup"):
            continue
        files = [entry for entry in _within(folder) if entry.is_file()]
        texts = [file for file in files if file.suffix.lower() == _SUFFIX]
        if not texts:
            raise ValueError(f"{folder} holds no {_SUFFIX} file: move it away, or put the texts of its class there")
        if len(texts) < len(files):
            other = next(file for file in files if file not in texts)
            raise ValueError(f"{other} stands among {_SUFFIX} files, and is none: make it one, or move it away")
        for file in texts:
            yield file.relative_to(root).as_posix(), {"text": _text(file), "label": folder.name}


def _text(file: Path) -> str:
    return decoded(file).strip()


def _texts(folder: Path, *, deep: bool) -> list[Path]:
    """The .txt files of a folder, sorted; `deep`: at any depth."""
    return [
        entry
        for entry in (_within if deep else _visible)(folder)
        if entry.is_file() and entry.suffix.lower() == _SUFFIX
    ]


def _within(folder: Path) -> Iterator[Path]:
    """What a folder holds at any depth, a folder before what is in it."""
    for entry in _visible(folder):
        yield entry
        if entry.is_dir():
            yield from _within(entry)


def _visible(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX")
