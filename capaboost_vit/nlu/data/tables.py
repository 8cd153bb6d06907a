"""Data sets in the formats of Hugging Face's `datasets`: the hub, saved sets, parquet."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
    import datasets

    spec = name + (f":{config}" if config else "")
    try:
        with _quiet():
            found = dict(datasets.load_dataset(name, config, cache_dir=_cache()))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(f"no data at {spec!r}, neither a local path nor on the hub: {_root(error)}") from error
    except Exception as error:  # httpx's, huggingface_hub's and datasets' own
        if isinstance(error, ConnectionError):
            raise FileNotFoundError(
                f"no data at {spec!r} on this machine, and the hub cannot be reached (offline?): {_INSTEAD}"
            ) from error
        raise ValueError(f"cannot load {spec} from the hub: {_root(error)}; {_INSTEAD}") from error
    return {split: _table(spec, split, rows) for split, rows in found.items()}


def read_saved(path: Path) -> dict[str, Table]:
    """The splits of a folder that `datasets` saved, or of its parquet files.

    Raises:
        ValueError: it cannot be read.
    """
    import datasets

    try:
        with _quiet():
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                saved = datasets.load_from_disk(str(path))
                found = {str(saved.split or "train"): saved} if isinstance(saved, datasets.Dataset) else dict(saved)
            else:
                found = dict(datasets.load_dataset(str(path.absolute()), cache_dir=_cache()))
    except Exception as error:  # pyarrow's, fsspec's and datasets' own, of many classes
        raise ValueError(f"cannot read {path}: {_root(error)}") from error
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


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def _cache() -> str | None:
    """None for `datasets`' own cache; a folder of this process where that cannot be written to."""
    import datasets

    usual = Path(datasets.config.HF_DATASETS_CACHE)
    with contextlib.suppress(OSError):
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK):
            return None
    if not _FOLDERS:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="capaboost_nlu_", ignore_cleanup_errors=True))
    return _FOLDERS[0].name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of `datasets` where nobody watches them."""
    import datasets

    if sys.stderr.isatty() or datasets.utils.are_progress_bars_disabled():
        yield
        return
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        datasets.utils.enable_progress_bars()


def _root(error: BaseException) -> str:
    """The first line of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
