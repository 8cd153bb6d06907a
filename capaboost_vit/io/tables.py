"""Splits by name, and tables as Hugging Face's `datasets` reads them, of the hub or local, with clear errors."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

VAL_NAMES = ("val", "valid", "validation", "dev")  # usual names of what chooses the epoch
SPLIT_ALIASES = {"train": ("train", "training"), "val": VAL_NAMES, "test": ("test", "testing")}
SPLIT_NAMES = {name: split for split, names in SPLIT_ALIASES.items() for name in names}
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(:[\w.+-]+)?")
_SPLIT_OF_FILE = re.compile(rf"(?:^|[-_. ])({'|'.join(SPLIT_NAMES)})(?:$|[-_. \d])", re.IGNORECASE)
_LOOKED_INTO = 100  # folders; of class folders there may be very many, and they hold no tables


def by_split(spec: str, names: Iterable[str], splits: Mapping[str, str], *, others: bool = False) -> dict[str, str]:
    """Files, folders or tables by the split that their name stands for, train first; an ending `.csv` does not count.

    Args:
        spec: the data set, for messages.
        splits: by the names that stand for them, in lower case.
        others: keep names that stand for no split.

    Raises:
        ValueError: there are two of one split.
    """
    named: dict[str, str] = {}
    for name in names:
        split = splits.get(name.partition(".")[0].lower(), name if others else None)
        if split in named:
            raise ValueError(f"{spec} holds {named[split]} and {name}, both {split}: keep one of them")
        if split is not None:
            named[split] = name
    order = list(dict.fromkeys(splits.values()))
    return {split: named[split] for split in sorted(named, key=lambda s: order.index(s) if s in order else len(order))}


def find_split(spec: str, names: Iterable[str], splits: Collection[str], unlabelled: Collection[str] = ()) -> str:
    """The first of some names, the one asked for and its aliases, that is a split; else without regard to case.

    Args:
        spec: the data set, for messages.
        unlabelled: splits that are there, but whose labels are not.

    Raises:
        ValueError: there is none, or it has no labels.
    """
    names = tuple(names)
    by_lower = {split.lower(): split for split in (*unlabelled, *splits)}
    exact = (name for name in names if name in splits or name in unlabelled)
    name = next(exact, next((by_lower[name.lower()] for name in names if name.lower() in by_lower), None))
    if name is None:
        raise ValueError(f"{spec} has no split {names[0]!r}; it has: {', '.join(splits)}")
    if name not in splits:
        raise ValueError(f"{spec}: the split {name!r} has no labels")
    return name


def is_hub_name(spec: str, *, suffixes: Collection[str] = ()) -> bool:
    """Whether this may be `owner/name` or `owner/name:config`, and does not end as a file does."""
    return bool(_HUB_NAME.fullmatch(spec)) and Path(spec).suffix.lower() not in suffixes


def is_table_folder(folder: Path) -> bool:
    """Whether `datasets` saved this folder, or it holds parquet files."""
    if any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
        return True
    return holds(folder, "*.parquet", "train/*.parquet")  # a file each, or a clone, or the hub's own conversion


def holds(folder: Path, *patterns: str) -> bool:
    """Whether a pattern of a name fits a file below a folder, or below one of the first 100 folders in it."""
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        inner = [Path(entry.path) for entry in islice(filter(os.DirEntry.is_dir, entries), _LOOKED_INTO)]
    return any(next(place.glob(pattern), None) is not None for place in (folder, *inner) for pattern in patterns)


def load_local(path: Path, *, builder: str | None = None) -> dict[str, Any]:
    """The splits of a folder, or of a parquet file, which is the split that its name tells, else train.

    Args:
        builder: which of `datasets`' own reads a folder that was not saved by it; None lets it choose.

    Raises:
        ValueError: it cannot be read.
    """
    import datasets

    cache = cache_folder()
    try:
        with quietly():
            if path.is_file():
                named = _SPLIT_OF_FILE.search(path.stem)
                files = {named.group(1).lower() if named else "train": str(path)}
                return dict(datasets.load_dataset("parquet", data_files=files, cache_dir=cache))
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                saved = datasets.load_from_disk(str(path))
                return {str(saved.split or "train"): saved} if isinstance(saved, datasets.Dataset) else dict(saved)
            if by_name := _capital_splits(path):
                return dict(datasets.load_dataset(builder or "parquet", data_files=by_name, cache_dir=cache))
            if builder is not None:
                return dict(datasets.load_dataset(builder, data_dir=str(path), cache_dir=cache))
            return dict(datasets.load_dataset(str(path.absolute()), cache_dir=cache))
    except Exception as error:  # pyarrow's, fsspec's and datasets' own, of many classes
        reason = root_cause(error)
        if "BatchSize" in reason:  # what pyarrow says of a parquet file without row groups
            reason = "a parquet file without rows"
        raise ValueError(f"cannot read {path}: {reason}") from error


def _capital_splits(path: Path) -> dict[str, list[str]]:
    """Parquet files and folders by the split that they name; none where all such names are in lower case.

    Those `datasets` knows; all others it would read as train, `Testing.parquet` among them.
    """
    splits: dict[str, list[str]] = {}
    all_lower = True
    for entry in sorted(path.iterdir()):
        word = entry.name if entry.is_dir() else entry.stem if entry.suffix == ".parquet" else ""
        named = _SPLIT_OF_FILE.search(word)
        if named and (named[1] == word or not entry.is_dir()):
            all_lower = all_lower and named[1].islower()
            splits.setdefault(named[1].lower(), []).append(f"{entry}/**" if entry.is_dir() else str(entry))
    return {} if all_lower else splits


def load_from_hub(spec: str, *, what: str, instead: str) -> dict[str, Any]:
    """The splits of `owner/name` or `owner/name:config` of the hub, or of `datasets`' cache, by the hub's names.

    Args:
        what: is missing where there is no such set, such as "data".
        instead: what to do without it, for messages.

    Raises:
        FileNotFoundError: no such set, or the hub cannot be reached. ValueError: it cannot be read.
    """
    import datasets

    name, _, config = spec.partition(":")
    try:
        with quietly():
            return dict(datasets.load_dataset(name, config or None, cache_dir=cache_folder()))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise FileNotFoundError(
            f"no {what} at {spec!r}, neither a local path nor on the hub: {root_cause(error)}"
        ) from error
    except Exception as error:  # httpx's, huggingface_hub's and datasets' own
        if "scripts are no longer supported" in str(error):
            raise ValueError(
                f"{spec} is made by a loading script, and scripts are not run here: convert it to parquet (on the hub, "
                "its branch refs/convert/parquet may hold that already), download it and give the folder"
            ) from error
        if isinstance(error, ConnectionError):
            raise FileNotFoundError(
                f"no {what} at {spec!r} on this machine, and the hub cannot be reached (offline?): {instead}"
            ) from error
        raise ValueError(f"cannot load {spec} from the hub: {root_cause(error)}; {instead}") from error


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []  # removed when the process ends


def cache_folder() -> str | None:
    """None for `datasets`' own cache; a folder of this process where that cannot be written to."""
    import datasets

    usual = Path(datasets.config.HF_DATASETS_CACHE)
    with contextlib.suppress(OSError):
        usual.mkdir(parents=True, exist_ok=True)
        if os.access(usual, os.W_OK):
            return None
    if not _FOLDERS:
        _FOLDERS.append(tempfile.TemporaryDirectory(prefix="capaboost_vit_", ignore_cleanup_errors=True))
    return _FOLDERS[0].name


@contextlib.contextmanager
def quietly() -> Iterator[None]:
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


def root_cause(error: BaseException) -> str:
    """The first line of the error that began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip() or type(error).__name__).splitlines()[0]
