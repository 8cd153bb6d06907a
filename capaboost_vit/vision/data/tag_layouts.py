"""Tags and numbers in folders and lists: images that stand in several folders; lines `path 0,3` and `path 2.5`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from ...io.printable import printable
from .image_data import ImageData
from .labels import Task, number_of
from .split import Split, name_digest
from .tree import Tree


def tag_folders(
    spec: str, tree: Tree, images: Mapping[str, Mapping[str, Sequence[str]]], left_out: Sequence[str]
) -> ImageData:
    """A folder for each tag, in which all images with this tag lie, by split; a file name stands for one image.

    Without folders of splits, "", the images are split 80 / 10 / 10 in an order that only depends on file names.

    Raises:
        ValueError: two files of one name and other contents; a tag that train does not have; too few images.
    """
    first = images.get("train") or next(iter(images.values()))
    index = {tag: number for number, tag in enumerate(sorted(first))}
    splits = {}
    for split, by_tag in images.items():
        if unknown := [tag for tag in by_tag if tag not in index]:
            raise ValueError(f"{spec}: {split} has the tag {printable(unknown[0])!r}, which train does not have")
        splits[split] = _tagged(tree, by_tag, index)
    if "" in splits:
        everything = splits.pop("")
        mixed = sorted(range(len(everything)), key=lambda i: name_digest(PurePosixPath(everything.names[i]).name))
        tenth = len(mixed) // 10
        if tenth == 0:
            raise ValueError(f"{spec} has only {len(mixed)} images, too few for 80 / 10 / 10: make train/, val/, test/")
        parts = {"train": mixed[2 * tenth :], "val": mixed[:tenth], "test": mixed[tenth : 2 * tenth]}
        splits = {name: everything.only(sorted(part)) for name, part in parts.items()}
    shared = sum(len(tags) > 1 for split in splits.values() for tags in split.labels)
    total = sum(map(len, splits.values()))
    said = f"{spec}: folders are tags; {shared} of {total} images stand in several of them, by their file name"
    return ImageData(spec, tuple(index), splits, left_out=(*left_out, said), task="multi-label")


def _tagged(tree: Tree, by_tag: Mapping[str, Sequence[str]], index: Mapping[str, int]) -> Split:
    places: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for tag, paths in by_tag.items():
        for path in paths:
            # below the folder of the tag: folders in it are no tags
            places[path.partition(f"{tag}/")[2]].append((path, index[tag]))
    for same in places.values():
        contents = {tree.read(path) for path, _ in same} if same[1:] else ()
        if len(contents) > 1:
            one, other = (tree.locate(path) for path, _ in same[:2])
            raise ValueError(
                f"{one} and {other} have one name and other contents: with --task multi-label a name stands for one "
                "image, whose folders are its tags; rename those that are others"
            )
    rows = sorted((same[0][0], tuple(sorted(tag for _, tag in same))) for same in places.values())
    return _split(tree, rows)


def _split(tree: Tree, rows: Sequence[tuple[str, Any]]) -> Split:
    return Split(tuple(path for path, _ in rows), tuple(label for _, label in rows), tree.read, tree.locate)


def other_lists(spec: str, tree: Tree, lists: Sequence[str], task: Task) -> ImageData:
    """Lists of `path 0,3` (numbers of tags from 0; `-` for none), or of `path 2.5`; names of tags in classes.txt.

    Raises:
        ValueError: by file and line.
    """
    names = tree.read("classes.txt").decode("utf-8-sig").split("\n") if "classes.txt" in tree else []
    classes = [name.strip() for name in names if name.strip()]
    splits = {}
    for file in lists:
        rows = []
        lines = tree.read(file).decode("utf-8-sig", "surrogateescape").split("\n")
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            where = f"{tree.locate(file)}, line {number}"
            name, text = (*line.strip().rsplit(maxsplit=1), "")[:2]
            label = number_of(text) if task == "regression" else _tags(text)
            if label is None:
                form = "path number" if task == "regression" else "path 0,3"
                raise ValueError(f"{where}: expected `{form}`, as of --task {task}, got {printable(line[:80])!r}")
            if name not in tree:
                raise ValueError(f"{where}: no image {printable(name)!r} beside it or in images.zip")
            rows.append((name, label))
        if not rows:
            raise ValueError(f"{tree.locate(file)} is empty")
        splits[file[: -len(".txt")]] = _split(tree, rows)
    if task == "regression":
        return ImageData(spec, (), splits, task=task)
    top = max((tag for split in splits.values() for tags in split.labels for tag in tags), default=-1)
    if top < 0:
        raise ValueError(f"{spec}: no image of the lists has a tag")
    if classes and top >= len(classes):
        raise ValueError(f"{spec}: tag {top} in a list, but classes.txt names only {len(classes)}")
    return ImageData(spec, tuple(classes or map(str, range(top + 1))), splits, task=task)


def _tags(text: str) -> Any:
    if text == "-":
        return ()
    parts = text.split(",")
    return tuple(sorted({*map(int, parts)})) if all(part.isdecimal() and len(part) < 10 for part in parts) else None
