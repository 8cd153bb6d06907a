"""Three ways to lay out images in a folder or a zip: lists, split folders, class folders."""

from __future__ import annotations

from ...io.tables import SPLIT_NAMES, by_split
from .image_data import ImageData
from .split import EXTENSIONS, Split, name_digest
from .tables import MOST_CLASSES
from .tree import Tree, printable


def lists_of(tree: Tree) -> list[str]:
    """The lists at the top: text files whose names begin with train, val or test, in this order."""
    files = [name for name in tree.files() if name.endswith(".txt")]
    return [name for start in ("train", "val", "test") for name in files if name.startswith(start)]


def read_tree(spec: str, tree: Tree) -> ImageData:
    """Lists; or train/, val/, test/ with a folder per class; or class folders alone. Raises ValueError for others."""
    if lists := lists_of(tree):
        return _lists(spec, tree, lists)
    folders = tree.folders()
    if "train" in folders:
        return _split_folders(spec, tree, [name for name in folders if name in SPLIT_NAMES])
    if folders:
        return _class_folders(spec, tree)
    raise ValueError(f"{spec} holds no train.txt, no train folder and no class folders: nothing to train on")


def _lists(spec: str, tree: Tree, lists: list[str]) -> ImageData:
    """Lists of `path label` lines, and class names in `classes.txt`. Raises ValueError by file and line."""
    splits = {name.removesuffix(".txt"): _split(tree, _read_list(name, tree)) for name in lists}
    top = max(max(split.labels) for split in splits.values())
    names = tree.read("classes.txt").decode("utf-8-sig").split("\n") if "classes.txt" in tree else []
    classes = [name.strip() for name in names if name.strip()] or [str(label) for label in range(top + 1)]
    if top >= len(classes):
        raise ValueError(f"{spec}: label {top} in a list, but classes.txt names only {len(classes)} classes")
    return ImageData(spec, tuple(classes), splits)


def _read_list(file: str, tree: Tree) -> list[tuple[str, int]]:
    pairs = []
    where = tree.locate(file)
    for number, line in enumerate(tree.read(file).decode("utf-8-sig", "surrogateescape").split("\n"), start=1):
        if not line.strip():
            continue
        name, label = (*line.strip().rsplit(maxsplit=1), "")[:2]
        if not label.isdecimal():
            raise ValueError(
                f"{where}, line {number}: expected `path label` with a label from 0, got {printable(line)!r}"
            )
        if len(label.lstrip("0")) >= len(str(MOST_CLASSES)):
            raise ValueError(f"{where}, line {number}: the label {label[:20]} is beyond {MOST_CLASSES - 1:,}")
        if name not in tree:
            raise ValueError(f"{where}, line {number}: no image {printable(name)!r} beside it or in images.zip")
        pairs.append((name, int(label)))
    if not pairs:
        raise ValueError(f"{where} is empty")
    return pairs


def _class_images(tree: Tree, below: str = "") -> dict[str, list[str]]:
    """Names of the images of each class folder, both sorted."""
    by_class: dict[str, list[str]] = {name: [] for name in tree.folders(below)}
    if not by_class:
        raise ValueError(f"{tree.locate(below)} holds no class folders")
    for name in sorted(tree.walk(below)):
        if name.lower().endswith(EXTENSIONS):
            by_class[name[len(below) :].partition("/")[0]].append(name)
    for folder, images in by_class.items():
        if not images:
            where = tree.locate(below + folder)
            raise ValueError(f"the class folder {where} holds no image ({', '.join(EXTENSIONS)})")
    return by_class


def _split_folders(spec: str, tree: Tree, folders: list[str]) -> ImageData:
    folder_of = by_split(spec, folders, SPLIT_NAMES)
    images = {name: _class_images(tree, f"{folder}/") for name, folder in folder_of.items()}
    classes = sorted(images["train"])
    labels = {name: label for label, name in enumerate(classes)}
    splits = {}
    for name, by_class in images.items():
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise ValueError(f"{spec}: {name} has the class {printable(unknown[0])!r}, which train does not have")
        splits[name] = _split(tree, [(path, labels[folder]) for folder, paths in by_class.items() for path in paths])
    return ImageData(spec, tuple(printable(name) for name in classes), splits)


def _class_folders(spec: str, tree: Tree) -> ImageData:
    by_class = _class_images(tree)
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
    return ImageData(spec, tuple(printable(name) for name in by_class), splits)


def _split(tree: Tree, pairs: list[tuple[str, int]]) -> Split:
    return Split(tuple(path for path, _ in pairs), tuple(label for _, label in pairs), tree.read, tree.locate)
