"""Images in the tables of Hugging Face's `datasets`: parquet, metadata files, saved sets, the hub; label columns."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ...io.columns import INTEGER, asked_column, only_column
from ...io.printable import printable
from ...io.tables import holds, is_table_folder, load_from_hub, load_local, root_cause
from ...io.tags import is_switch
from .image_data import ImageData
from .labels import Task
from .split import Split
from .table_labels import labels_of_column, tags_of_columns

_INSTEAD = "give a local folder of images, a .zip, or a .parquet file instead"
_IMAGE_NAMES = ("image", "img", "picture", "photo")
_LABEL_NAMES = ("label", "labels", "class", "fine_label", "class_label", "category", "target")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def is_image_table(folder: Path) -> bool:
    """Whether `datasets` reads a folder: one that it saved, with parquet files, or with metadata of images."""
    return is_table_folder(folder) or _has_metadata(folder)


def _has_metadata(folder: Path) -> bool:
    return holds(folder, *_METADATA)


def read_table(
    spec: str,
    path: Path | None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    task: Task | None = None,
) -> ImageData:
    """A local parquet file or folder, or without a path `owner/name[:config]` of the hub.

    Args:
        task: what labels are; None: tags where the column holds lists, numbers where it holds fractions, else classes.

    Raises:
        OSError: the hub cannot be reached, or has no such set. ValueError: it cannot be read or has wrong columns.
    """
    import datasets

    if path is None:
        tables = load_from_hub(spec, what="data", instead=_INSTEAD)
    else:
        by_file = _has_metadata(path)
        tables = load_local(path, builder="imagefolder" if by_file else None)
    features = next(iter(tables.values())).features
    usual = [name for name in features if name.lower() in _IMAGE_NAMES and _may_hold_images(features[name])]
    image = _column(spec, features, "image", image_column, datasets.Image, usual)
    labels = _label_columns(spec, tables, image, label_column, task)
    for name, table in tables.items():
        if not {image, *labels} <= {*table.features}:
            raise ValueError(f"{spec}: {name} has other columns: {', '.join(table.features)}")
        if len(table) == 0:
            raise ValueError(f"{spec}: {name} has no rows")
    if labels[1:]:
        read = tags_of_columns(
            spec, labels, {name: [table[label] for label in labels] for name, table in tables.items()}
        )
    else:
        (label,) = labels
        cells = {name: list(table[label]) for name, table in tables.items()}
        if path is not None and by_file and (written := _written_labels(path, label)):
            for name, table in tables.items():
                files = (cell and cell["path"] for cell in _without_pixels(table, image)[image])
                cells[name] = [written.get(Path(file).resolve()) if file else None for file in files]
        read = labels_of_column(spec, label, cells, features[label], task)
    splits = {}
    for name, labels_of_split in read.labels.items():
        try:
            table = _without_pixels(tables[name], image)
        except Exception as error:  # pyarrow's too
            raise ValueError(f"{spec}: the column {image!r} holds no images: {root_cause(error)}") from error
        names = tuple(f"row {i}" for i in range(len(labels_of_split)))
        locate = partial(_locate, table, image, f"{name} in {spec}")
        splits[name] = Split(names, labels_of_split, partial(_read, table, image), locate)
    return ImageData(spec, read.classes, splits, read.unlabelled, read.said, read.task)


def _label_columns(spec: str, tables: Mapping[str, Any], image: str, asked: str | None, task: Task | None) -> list[str]:
    """The column of the labels; or several of 0 and 1, a tag each: those asked for, `a,b`, or all if no name fits."""
    import datasets

    features = next(iter(tables.values())).features
    usual = [name for name in features if name.lower() in _LABEL_NAMES] or [n for n in features if n.lower() == "tags"]
    if task == "multi-label" and asked is not None and asked not in features and "," in asked:
        return [asked_column(spec, features, name.strip(), "--label-column") for name in asked.split(",")]
    if task == "multi-label" and asked is None and not usual:
        switches = [name for name in features if name != image and all(is_switch(t[name]) for t in tables.values())]
        if switches[1:]:
            return switches
    label = _column(spec, features, "label", asked, datasets.ClassLabel, usual)
    kind = features[label]
    if not isinstance(kind, datasets.ClassLabel | datasets.Value) and not hasattr(kind, "feature"):
        raise ValueError(f"{spec}: the column {label!r} holds {kind}, not one label for each image")
    return [label]


def _written_labels(folder: Path, column: str) -> dict[Path, str]:
    """The labels in metadata.csv by image file; nothing where all are integers, or they stand in another file.

    `datasets` reads them with pandas, which makes the number 7 of the name 007, and no label of NA, nan and None.
    """
    labels: dict[Path, str] = {}
    for metadata in folder.rglob("metadata.csv"):
        with metadata.open(encoding="utf-8-sig", newline="") as file:
            for row in csv.DictReader(file):
                if row.get("file_name") and (row.get(column) or "").strip():
                    labels[(metadata.parent / row["file_name"]).resolve()] = row[column].strip()
    return {} if all(INTEGER.fullmatch(label) for label in labels.values()) else labels


def _without_pixels(table: Any, column: str) -> Any:
    """Bytes and path of each image, not decoded."""
    import datasets

    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))


def _column(spec: str, features: dict[str, Any], what: str, asked: str | None, typed: type, usual: list[str]) -> str:
    """The column that was asked for; or the one of a type, or else the one of a usual name."""
    flag = f"--{what}-column"
    if asked is not None:
        return asked_column(spec, features, asked, flag)
    candidates = [name for name, kind in features.items() if isinstance(kind, typed)] or usual
    column = only_column(spec, candidates, f"{what}s", flag)
    if column is None:
        raise ValueError(f"{spec} has no column of {what}s that is known: choose with {flag} {' or '.join(features)}")
    return column


def _may_hold_images(kind: Any) -> bool:
    """Whether these are bytes, or {bytes, path}, as pandas and others write images."""
    from datasets import Value

    return kind == Value("binary") or (isinstance(kind, dict) and kind.keys() == {"bytes", "path"})


def _read(table: Any, column: str, name: str) -> bytes:
    """The encoded bytes of `row i`, from the table or from the file that it names."""
    cell = table[int(name.split()[1])][column]
    if cell is None or (cell["bytes"] is None and cell["path"] is None):
        raise ValueError("there is no image in this row")
    return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()


def _locate(table: Any, column: str, where: str, name: str) -> str:
    """The row, and the file where there is one."""
    path = (table[int(name.split()[1])][column] or {}).get("path")
    return f"{name} of {where}" + (f" ({printable(path)})" if path else "")
