"""What lies at a path where the data of a task may be: its layout and its splits, without opening it as a data set."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ...vision.data.layouts import lists_of
from ...vision.data.tables import is_image_table
from ...vision.data.tree import Folder, Tree, Zip

_SHARD = re.compile(r"-\d+-of-\d+$")


@dataclass(frozen=True)
class DataLayout:
    """Data that is there.

    Args:
        table: whether it is of parquet, metadata files and the like; else lists, or folders of splits.
        splits: the names of its lists, folders or parquet files.
        jpeg: whether the first image of the first list is a JPEG; false for everything else.
    """

    path: Path
    table: bool
    splits: frozenset[str]
    jpeg: bool = False


def look_at(path: Path) -> DataLayout:
    """What lies at a path. Raises FileNotFoundError or ValueError with nothing but the reason why it is of no use."""
    if path.is_dir():
        tree: Tree = Folder(path, with_zip=True)
    elif path.is_file():
        tree = Zip(path, look_through=True)
    else:
        raise FileNotFoundError("not there")
    lists = lists_of(tree)
    if lists:
        return DataLayout(
            path, False, frozenset(name[: -len(".txt")] for name in lists), _begins_with_jpeg(tree, lists[0])
        )
    if path.is_dir() and is_image_table(path):
        return DataLayout(path, True, _of_table(path))
    folders = tree.folders()
    if "train" in folders:
        return DataLayout(path, False, frozenset(folders))
    raise ValueError("no lists, no parquet files and no train folder in it")


def _begins_with_jpeg(tree: Tree, file: str) -> bool:
    line = tree.read(file).decode("utf-8-sig", "surrogateescape").strip().partition("\n")[0]
    name = line.strip().rpartition(" ")[0].rstrip()
    return name in tree and tree.read(name).startswith(b"\xff\xd8\xff")


def _of_table(path: Path) -> frozenset[str]:
    """The splits by the names of the files: train-00000-of-00001.parquet, or train/0000.parquet."""
    saved = path / "dataset_dict.json"
    if saved.is_file():
        return frozenset(json.loads(saved.read_text("utf-8"))["splits"])
    files = [file for pattern in ("*.parquet", "*/*.parquet", "*/train/*.parquet") for file in path.glob(pattern)]
    return frozenset(file.parent.name if file.stem.isdigit() else _SHARD.sub("", file.stem) for file in files)
