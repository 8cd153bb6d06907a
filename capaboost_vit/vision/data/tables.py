"""Data sets in the formats of Hugging Face's `datasets`: parquet, metadata files, saved sets, the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from PIL import Image

from ...io.hub import cache_folder, load_from_hub, quietly, root_cause
from .columns import image_column as find_image_column
from .columns import label_column as find_label_column
from .labels import number_labels
from .split import ImageData, Split
from .tree import printable

_INSTEAD = "give a local folder of images, a .zip, or a .parquet file instead"
_SPLIT_OF_FILE = re.compile(r"(?:^|[-_. ])(train|validation|valid|val|dev|test)(?:$|[-_. \d])", re.IGNORECASE)


def is_table_folder(folder: Path) -> bool:
    """Whether a folder is one that `datasets` reads: saved by it, with parquet files, or with metadata of images."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")) or _has_metadata(folder):
        return True
    patterns = ("*.parquet", "*/*.parquet", "*/train/*.parquet")  # a file each, a clone, the hub's own conversion
    return any(next(folder.glob(pattern), None) is not None for pattern in patterns)


def _has_metadata(folder: Path) -> bool:
    names = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
    return any(next(folder.glob(start + name), None) is not None for name in names for start in ("", "*/"))


def read_table(
    spec: str, path: Path | None, *, image_column: str | None = None, label_column: str | None = None
) -> ImageData:
    """A local parquet file or folder, or without a path `owner/name[:config]` of the hub.

    Raises:
        OSError: the hub cannot be reached, or has no such set. ValueError: it cannot be read or has wrong columns.
    """
    name, _, config = spec.partition(":")
    with quietly():
        if path is None:
            tables = load_from_hub(name, config or None, what="data", instead=_INSTEAD)
        else:
            tables = _of_path(spec, path)
    return _with_columns(spec, tables, image_column, label_column)


def _of_path(spec: str, path: Path) -> dict[str, Any]:
    import datasets

    cache = cache_folder()
    try:
        if path.is_file():
            named = _SPLIT_OF_FILE.search(path.stem)
            split = named.group(1).lower() if named else "train"
            return dict(datasets.load_dataset("parquet", data_files={split: str(path)}, cache_dir=cache))
        if (path / "dataset_dict.json").is_file():
            return dict(datasets.load_from_disk(str(path)))
        if (path / "state.json").is_file():
            saved = datasets.load_from_disk(str(path))
            return {str(saved.split or "train"): saved}
        if _has_metadata(path):
            return dict(datasets.load_dataset("imagefolder", data_dir=str(path), cache_dir=cache))
        return dict(datasets.load_dataset(str(path.absolute()), cache_dir=cache))
    except Exception as error:  # pyarrow's, fsspec's and datasets' own, of many classes
        raise ValueError(f"cannot read {spec}: {root_cause(error)}") from error


def _with_columns(spec: str, tables: dict[str, Any], image: str | None, label: str | None) -> ImageData:
    import datasets

    features = next(iter(tables.values())).features
    image, label = find_image_column(spec, features, image), find_label_column(spec, features, label)
    for name, table in tables.items():
        if image not in table.features or (label not in table.features):
            raise ValueError(f"{spec}: {name} has other columns: {', '.join(table.features)}")
        if len(table) == 0:
            raise ValueError(f"{spec}: {name} has no rows")
    values = {name: list(table[label]) for name, table in tables.items()}
    classes, labels, unlabelled = number_labels(spec, label, values, getattr(features[label], "names", None))
    splits = {}
    for name, labels_ in labels.items():
        try:
            table = tables[name].select_columns([image]).cast_column(image, datasets.Image(decode=False))
        except Exception as error:  # pyarrow's too
            raise ValueError(f"{spec}: the column {image!r} holds no images: {root_cause(error)}") from error
        rows = _Rows(table, image, f"{name} in {spec}")
        splits[name] = Split(tuple(f"row {i}" for i in range(len(labels_))), labels_, rows.read, rows.locate)
    return ImageData(spec, classes, splits, unlabelled)


class _Rows:
    """Reads `row i` of a table."""

    def __init__(self, table: Any, column: str, where: str) -> None:
        self.table, self.column, self.where = table, column, where

    def read(self, name: str) -> bytes | Image.Image:
        """The encoded bytes, from the table or from the file that it names."""
        cell = self._cell(name)
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise ValueError("there is no image in this row")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    def locate(self, name: str) -> str:
        """The row, and the file where there is one."""
        path = (self._cell(name) or {}).get("path")
        return f"{name} of {self.where}" + (f" ({printable(path)})" if path else "")

    def _cell(self, name: str) -> Any:
        return self.table[int(name.split()[1])][self.column]
