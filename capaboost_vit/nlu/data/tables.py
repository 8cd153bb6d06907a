"""Data sets in the formats of Hugging Face's `datasets`: the hub, saved sets, parquet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...io.hub import cache_folder, load_from_hub, quietly, root_cause
from .table import Table

_INSTEAD = "give a local folder or file (.tsv, .csv, .jsonl) instead"
_AT_ONCE = 1000  # rows


def is_table_folder(folder: Path) -> bool:
    """Whether a folder is one that `datasets` saved, or holds parquet files."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    return any(next(folder.glob(pattern), None) is not None for pattern in ("*.parquet", "*/*.parquet"))


def read_hub(name: str, config: str | None) -> dict[str, Table]:
    """The splits of a set of the hub, or of `datasets`' cache, by the hub's names.

    Raises:
        OSError: the hub cannot be reached, or has no such set. ValueError: it cannot be read.
    """
    spec = name + (f":{config}" if config else "")
    found = load_from_hub(name, config, what="data", instead=_INSTEAD)
    return {split: _table(spec, split, rows) for split, rows in found.items()}


def read_saved(path: Path) -> dict[str, Table]:
    """The splits of a folder that `datasets` saved, or of its parquet files.

    Raises:
        ValueError: it cannot be read.
    """
    import datasets

    try:
        with quietly():
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                saved = datasets.load_from_disk(str(path))
                found = {str(saved.split or "train"): saved} if isinstance(saved, datasets.Dataset) else dict(saved)
            else:
                found = dict(datasets.load_dataset(str(path.absolute()), cache_dir=cache_folder()))
    except Exception as error:  # pyarrow's, fsspec's and datasets' own, of many classes
        raise ValueError(f"cannot read {path}: {root_cause(error)}") from error
    return {split: _table(str(path), split, rows) for split, rows in found.items()}


def _table(spec: str, split: str, rows: Any) -> Table:
    """Rows of a split; a class stands there by its name, and a missing one (-1) as None."""
    import datasets

    names = {
        column: tuple(kind.names) for column, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)
    }
    return Table(f"{split} of {spec}", split, "row", tuple(rows.features), _cells(rows, names), names)


def _cells(rows: Any, names: Mapping[str, tuple[str, ...]]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    number = 0
    for part in rows.iter(_AT_ONCE):
        for cells in zip(*part.values(), strict=True):
            row = dict(zip(part, cells, strict=True))
            for column, classes in names.items():
                label = row[column]
                row[column] = None if label is None or label < 0 else classes[label]
            yield number, row
            number += 1
