"""From what stands behind `--data` to a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...io.sources import sources_of
from ...io.tables import is_hub_name
from .built_in import read_digits, read_synthetic
from .image_data import ImageData
from .labels import Task
from .layouts import lists_of, look_through, read_tree
from .pixels import ValueRange, checked_range
from .several import join
from .sprites import read_sprites
from .tables import is_image_table, read_table
from .torchvision_sets import read_torchvision
from .tree import Folder, Tree, Zip

_CHOICES = (
    "give digits, sprites:TASK, or the path of an image folder, a .zip or a .parquet, owner/name on the hub, "
    "torchvision:NAME"
)
_TAGS_AND_NUMBERS = "tags and numbers come from metadata.csv, parquet or lists, tags also from folders"


def open_data(
    spec: str,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    task: Task | None = None,
    root: str | None = None,
    download: bool = False,
) -> ImageData:
    """Reads which images a data set has, and their labels; no image yet. A local path wins over other readings.

    - `digits`, or `digits:5-9` for some of its classes: scikit-learn's 1,797 digits, split by half, quarter, quarter;
      `digits:0-9:inverted`, `digits:0-9:noisy`: the same in another domain;
    - `sprites:location`, `sprites:orientation`, `sprites:count`, `sprites:distance`: generated images of shapes, with
      800 / 200 / 5,000 images; `sprites:count:96` for images of other than 64 pixels a side (see `sprites`);
    - a folder, or a `.zip` that holds one, which is read without unpacking; a lone folder in it is looked through:
      - with lists `train.txt`, `val.txt`, `test.txt` (or VTAB-1k's train800, val200, train800val200, test) of
        `path label` lines, paths relative to the folder or inside its `images.zip`; class names in `classes.txt`;
      - with train/, val/, test/ (or some of them; training, validation, testing and the like, in upper or lower case)
        that hold one folder of images per class;
      - of class folders, split 80 / 10 / 10 per class in a fixed order that only depends on file names;
    - a `.parquet` file; a folder with parquet files, with metadata.csv or metadata.jsonl that labels images, or one
      that `datasets` saved: its own splits;
    - `owner/name` or `owner/name:config`: a data set of the Hugging Face hub, with its own splits;
    - `torchvision:CIFAR10` and the like;
    - `synthetic:CLASSES:TRAIN:VAL:TEST:SIZE`: generated images, to measure time with;
    - several of these with ` + ` between them: their union, see `several.join`.

    Args:
        image_column, label_column: of parquet, metadata and hub sets; None finds them by type, then by usual names.
        task: what labels are; None: classes, but numbers where a column of a table holds fractions, and tags where it
            holds lists. Only then do folders that share a file name give its image several tags.
        root: where torchvision's files are; None takes `~/.cache/capaboost_vit/torchvision`.
        download: let torchvision download what is not there.

    Raises:
        FileNotFoundError: no such folder, file, hub set or torchvision files, or the hub cannot be reached.
        ValueError: nothing usable there, or something that is wrong, by file and line or by split and row.
    """
    columns: dict[str, Any] = {"image_column": image_column, "label_column": label_column, "task": task}
    if len(specs := sources_of(spec)) > 1:
        if not all(specs):
            raise ValueError(f"--data {spec!r} has a + without a data set beside it")
        return join(spec, [open_data(alone, root=root, download=download, **columns) for alone in specs])
    path = Path(spec).expanduser()
    is_zip = path.is_file() and path.suffix.lower() == ".zip"
    if spec.strip() and (path.is_dir() or is_zip):
        place = find_images(path)
        return read_table(spec, place, **columns) if isinstance(place, Path) else read_tree(spec, place, task)
    if path.is_file():
        if path.suffix.lower() == ".parquet":
            return read_table(spec, path, **columns)
        raise ValueError(f"{spec} is a file, but neither .zip nor .parquet: {_CHOICES}")
    if is_hub_name(spec, suffixes=(".zip", ".parquet")):
        return read_table(spec, None, **columns)
    built_in = spec.lower().startswith(("digits", "synthetic:", "sprites", "torchvision:"))
    if built_in and task not in (None, "classification"):
        raise ValueError(f"--task {task}: {spec} has one class per image; {_TAGS_AND_NUMBERS}")
    if spec == "digits" or spec.startswith("digits:"):
        return read_digits(spec)
    if spec == "synthetic" or spec.startswith("synthetic:"):
        return read_synthetic(spec)
    if spec == "sprites" or spec.startswith("sprites:"):
        return read_sprites(spec)
    if spec.lower().startswith("torchvision:"):
        return read_torchvision(spec, root=root, download=download)
    raise FileNotFoundError(f"no data at {spec!r}: {_CHOICES}")


def find_images(path: Path) -> Tree | Path:
    """What a folder or a zip holds: the tree of its images and lists, or the folder of its table (parquet, ...)."""
    if not path.is_dir():
        return look_through(Zip(path))
    inner = look_through(Folder(path))
    assert isinstance(inner, Folder)
    for folder in dict.fromkeys((path, inner.path)):
        if is_image_table(folder) and not lists_of(Folder(folder)):
            return folder
    return Folder(inner.path, with_zip=bool(lists_of(inner)))


def open_configured(options: Mapping[str, Any]) -> ImageData:
    """The data set that options of `capaboost train` name, as `open_data` opens it, read with their `value_range`."""
    data = open_data(
        options["data"],
        image_column=options.get("image_column"),
        label_column=options.get("label_column"),
        task=options.get("task"),
        root=options.get("data_dir"),
        download=options.get("data_download", False),
    )
    if options.get("value_range") is None:
        return data
    return _in_range(data, checked_range(options["value_range"]))


def _in_range(data: ImageData, value_range: ValueRange) -> ImageData:
    splits = {name: replace(split, value_range=value_range) for name, split in data.splits.items()}
    return replace(data, splits=splits, sources=tuple(_in_range(source, value_range) for source in data.sources))
