"""Three ways to lay out images in a folder or a zip: lists, split folders, class folders."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from unicodedata import normalize

from ...io.columns import refuse_lookalikes
from ...io.printable import printable
from ...io.tables import SPLIT_NAMES, by_split
from .image_data import ImageData
from .labels import Task
from .pixels import is_image
from .split import Split, name_digest
from .tag_layouts import other_lists, tag_folders
from .tree import Tree

_DIGITS = 18  # of a label; int() of thousands of them takes long, or raises
_LISTS = re.compile(r"(train|val|test|dev(?![a-z])).*\.txt", re.IGNORECASE)


def lists_of(tree: Tree) -> list[str]:
    """The lists at the top: text files whose names begin with train, val (or are dev) or test, in this order."""
    matches = [match for name in tree.files() if (match := _LISTS.fullmatch(name))]
    order = ("train", "val", "dev", "test")
    return [match.string for match in sorted(matches, key=lambda match: order.index(match[1].lower()))]


def look_through(tree: Tree) -> Tree:
    """The data set inside lone folders, such as those that archives wrap around it."""
    while len(folders := tree.folders()) == 1 and folders[0].lower() not in SPLIT_NAMES and not lists_of(tree):
        inner = tree.below(folders[0])
        if not inner.folders() and not lists_of(inner):  # a class
            break
        tree = inner
    return tree


def split_folders(spec: str, folders: Sequence[str]) -> dict[str, str]:
    """The folders that are splits, by split; empty where all are classes.

    Raises:
        ValueError: two of one split; val or test without train among other folders, which may be splits or classes.
    """
    named = [name for name in folders if name.lower() in SPLIT_NAMES]
    others = sorted({*folders} - {*named})
    splits = by_split(spec, named, SPLIT_NAMES)
    if splits and others and "train" not in splits:
        raise ValueError(
            f"{spec} holds {printable(named[0])!r} beside {printable(others[0])!r}: is it a split? Then put the other "
            "folders into one called train; if it is a class, rename it"
        )
    return splits


def read_tree(spec: str, tree: Tree, task: Task | None = None) -> ImageData:
    """Lists; or folders of splits with a folder per class; or class folders alone. Raises ValueError for others.

    Args:
        task: what labels are: see `lists_of_labels` for lists; of folders tags alone, see `tag_folders`.
    """
    if lists := lists_of(tree):
        return _lists(spec, tree, lists) if task in (None, "classification") else other_lists(spec, tree, lists, task)
    folders = tree.folders()
    if task == "regression":
        raise ValueError(
            f"--task regression: {spec} names no numbers: give metadata.csv, parquet, or lists `path number`"
        )
    if task == "multi-label" and folders:
        splits = split_folders(spec, folders)
        below = {name: f"{folder}/" for name, folder in splits.items()} or {"": ""}
        left_out: list[str] = []
        return tag_folders(
            spec, tree, {name: _class_images(tree, at, left_out) for name, at in below.items()}, left_out
        )
    if splits := split_folders(spec, folders):
        return _split_folders(spec, tree, splits)
    if folders:
        return _class_folders(spec, tree)
    raise ValueError(f"{spec} holds no train.txt, no train folder and no class folders: nothing to train on")


def _lists(spec: str, tree: Tree, lists: list[str]) -> ImageData:
    """Lists of `path label` lines, and class names in `classes.txt`. Raises ValueError by file and line."""
    read = {name[: -len(".txt")]: _read_list(name, tree) for name in lists}
    names = tree.read("classes.txt").decode("utf-8-sig").split("\n") if "classes.txt" in tree else []
    classes = [name.strip() for name in names if name.strip()]
    values = sorted({label for pairs in read.values() for _, label in pairs})
    if classes and values[-1] >= len(classes):
        raise ValueError(f"{spec}: label {values[-1]} in a list, but classes.txt names only {len(classes)} classes")
    refuse_lookalikes(f"{spec}: classes.txt", classes)
    labels = {value: label for label, value in enumerate(range(len(classes)) if classes else values)}
    splits = {name: _split(tree, [(path, labels[value]) for path, value in pairs]) for name, pairs in read.items()}
    return ImageData(spec, tuple(classes or map(str, values)), splits)


def _read_list(file: str, tree: Tree) -> list[tuple[str, int]]:
    pairs = []
    where = tree.locate(file)
    for number, line in enumerate(tree.read(file).decode("utf-8-sig", "surrogateescape").split("\n"), start=1):
        if not line.strip():
            continue
        name, label = (*line.strip().rsplit(maxsplit=1), "")[:2]
        if not label.isdecimal():
            raise ValueError(
                f"{where}, line {number}: expected `path label` with a label from 0, got {printable(line[:80])!r}; "
                "rename the file if it is no list of a split"
            )
        if len(label) > _DIGITS:
            raise ValueError(f"{where}, line {number}: the label {label[:20]} has more than {_DIGITS} digits")
        if name not in tree:
            raise ValueError(f"{where}, line {number}: no image {printable(name)!r} beside it or in images.zip")
        pairs.append((name, int(label)))
    if not pairs:
        raise ValueError(f"{where} is empty")
    return pairs


def _class_images(tree: Tree, below: str, left_out: list[str]) -> dict[str, list[str]]:
    """Names of the images of each class folder, both sorted; adds a line to `left_out` if there are other files."""
    by_class: dict[str, list[str]] = {}
    others = Counter[str]()
    for folder, files in tree.by_folder(below):
        by_class[folder] = sorted(name for name in files if is_image(tree, name))
        others += Counter(PurePosixPath(name).suffix for name in {*files}.difference(by_class[folder]))
        if not by_class[folder]:  # the first one ends it: there may be very many
            raise ValueError(f"the class folder {tree.locate(below + folder)} holds no image{_listed(others)}")
    if not by_class:
        raise ValueError(f"{tree.locate(below)} holds no class folders")
    where = tree.locate(below).rstrip("/")
    refuse_lookalikes(where, by_class)
    if others:
        left_out.append(f"{where} holds {others.total()} files that are no images{_listed(others)}: left out")
    if loose := sum(is_image(tree, below + name) for name in tree.files(below)):
        left_out.append(f"{where} holds {loose} images beside its class folders, which belong to no class: left out")
    return by_class


def _listed(suffixes: Counter[str]) -> str:
    """` (3 .txt, 1 without ending)`; nothing for none."""
    named = (f"{count} {printable(suffix) or 'without ending'}" for suffix, count in suffixes.most_common(5))
    return f" ({', '.join(named)})" if suffixes else ""


def _split_folders(spec: str, tree: Tree, folder_of: dict[str, str]) -> ImageData:
    left_out: list[str] = []
    images = {name: _class_images(tree, f"{folder}/", left_out) for name, folder in folder_of.items()}
    classes = sorted(images.get("train") or {name for by_class in images.values() for name in by_class})
    refuse_lookalikes(spec, classes)
    labels = {normalize("NFC", name): label for label, name in enumerate(classes)}
    splits = {}
    for name, by_class in images.items():
        for folder in sorted(by_class):
            if normalize("NFC", folder) not in labels:
                raise ValueError(f"{spec}: {name} has the class {printable(folder)!r}, which train does not have")
        labelled = [(path, labels[normalize("NFC", folder)]) for folder, paths in by_class.items() for path in paths]
        splits[name] = _split(tree, labelled)
    return ImageData(spec, tuple(classes), splits, left_out=tuple(left_out))


def _class_folders(spec: str, tree: Tree) -> ImageData:
    left_out: list[str] = []
    by_class = _class_images(tree, "", left_out)
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label, (folder, paths) in enumerate(by_class.items()):
        mixed = sorted(paths, key=name_digest)
        tenth = len(mixed) // 10
        if tenth == 0:
            raise ValueError(
                f"{spec}: class {printable(folder)!r} has only {len(mixed)} images, too few for 80 / 10 / 10: "
                "make train/, val/ and test/ folders yourself"
            )
        for name, part in zip(parts, (mixed[2 * tenth :], mixed[:tenth], mixed[tenth : 2 * tenth]), strict=True):
            parts[name] += [(path, label) for path in part]
    splits = {name: _split(tree, sorted(pairs)) for name, pairs in parts.items()}
    return ImageData(spec, tuple(by_class), splits, left_out=tuple(left_out))


def _split(tree: Tree, pairs: list[tuple[str, int]]) -> Split:
    return Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), tree.read, tree.locate)
