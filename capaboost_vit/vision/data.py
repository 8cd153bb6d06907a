"""Where images come from: the embedded digits, image folders, and folders with lists of `path label` lines."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
_ALIASES = {"train": ("train", "train800"), "val": ("val", "valid", "validation", "val200"), "test": ("test",)}


@dataclass(frozen=True)
class Split:
    """Names and labels of the images of one split, and how to open the i-th as RGB."""

    names: tuple[str, ...]
    labels: tuple[int, ...]
    open: Callable[[str], Image.Image] = field(repr=False)

    def __len__(self) -> int:
        return len(self.names)

    def image(self, index: int) -> Image.Image:
        """The image as RGB, upright. Raises ValueError that names the file if it cannot be read."""
        name = self.names[index]
        try:
            with self.open(name) as image:
                return to_rgb(image)
        except Exception as error:  # decoders raise whatever the damaged bytes lead them to
            raise ValueError(f"cannot read the image {name}: {error}") from error

    def digest(self) -> str:
        """SHA-256 over names and labels."""
        lines = "\n".join(f"{name} {label}" for name, label in zip(self.names, self.labels, strict=True))
        return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class ImageData:
    """The splits of a data set by name, and its class names in the order of the labels."""

    spec: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    def split(self, name: str) -> Split:
        """A split by its name, or by a usual alias (train: train800; val: val200). Raises ValueError if absent."""
        for candidate in (name, *_ALIASES.get(name, ())):
            if candidate in self.splits:
                return self.splits[candidate]
        raise ValueError(f"{self.spec} has no split {name!r}; it has: {', '.join(self.splits)}")

    def has(self, name: str) -> bool:
        """Whether `split(name)` would succeed."""
        return any(candidate in self.splits for candidate in (name, *_ALIASES.get(name, ())))


def open_data(spec: str) -> ImageData:
    """Reads a data set's lists (no image yet).

    - `digits`, or `digits:5-9` for some of its classes: scikit-learn's 1,797 digits, split by half, quarter, quarter;
    - a folder with lists `train.txt`, `val.txt`, `test.txt` (or VTAB-1k's train800, val200, train800val200, test) of
      `path label` lines, paths relative to the folder or inside its `images.zip`; class names in `classes.txt`;
    - a folder with train/, val/ (optional), test/ (optional) that hold one folder of images per class;
    - a folder of class folders, which is split 80 / 10 / 10 per class in a fixed order that only depends on file names.

    Raises:
        FileNotFoundError: no such folder. ValueError: nothing usable in it, or a list that is wrong, by file and line.
    """
    if spec == "digits" or spec.startswith("digits:"):
        return _digits(spec)
    folder = Path(spec)
    if not folder.is_dir():
        raise FileNotFoundError(f"no data at {spec!r}: give digits, or the path of an image folder")
    lists = sorted(p for p in folder.glob("*.txt") if p.stem.startswith(("train", "val", "test")))
    if lists:
        return _from_lists(spec, folder, lists)
    subfolders = {p.name: p for p in sorted(folder.iterdir()) if p.is_dir() and not p.name.startswith(".")}
    if "train" in subfolders:
        return _from_split_folders(spec, subfolders)
    if subfolders:
        return _from_class_folders(spec, folder)
    raise ValueError(f"{spec} holds no train.txt, no train folder and no class folders: nothing to train on")


def to_rgb(image: Image.Image) -> Image.Image:
    """Any image as RGB: upright by its EXIF tag, 16-bit scaled to 8, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535.0 if image.mode.startswith("I;16") or values.max() > 255 else 255.0
        image = Image.fromarray((values * (255.0 / top)).clip(0, 255).round().astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _digits(spec: str) -> ImageData:
    from sklearn.datasets import load_digits

    first, last = 0, 9
    if ":" in spec:
        try:
            first, last = (int(part) for part in spec.partition(":")[2].split("-"))
        except ValueError:
            raise ValueError(f"{spec!r}: write digits, or a range of its classes such as digits:5-9") from None
        if not 0 <= first <= last <= 9:
            raise ValueError(f"{spec!r}: the digits' classes are 0-9")
    digits = load_digits()
    images = (digits.images * (255 / 16)).round().astype(np.uint8)
    chosen = [i for i, label in enumerate(digits.target) if first <= label <= last]
    parts = {"train": [i for i in chosen if i % 2 == 0], "val": [i for i in chosen if i % 4 == 1]}
    parts["test"] = [i for i in chosen if i % 4 == 3]
    splits = {
        name: Split(
            tuple(f"digit {i}" for i in part),
            tuple(int(digits.target[i]) - first for i in part),
            _Digits(images),
        )
        for name, part in parts.items()
    }
    return ImageData(spec, tuple(str(label) for label in range(first, last + 1)), splits)


class _Digits:
    """Opens `digit i`: the i-th of scikit-learn's 8 x 8 images."""

    def __init__(self, images: np.ndarray) -> None:
        self.images = images

    def __call__(self, name: str) -> Image.Image:
        return Image.fromarray(self.images[int(name.split()[1])])


class _Files:
    """Opens images of a folder, or of its images.zip, with one zip handle per process: loaders must not share one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zip_path = folder / "images.zip"
        self.handles: dict[int, zipfile.ZipFile] = {}
        self.members: frozenset[str] = frozenset()
        if self.zip_path.exists():
            try:
                with zipfile.ZipFile(self.zip_path) as file:
                    self.members = frozenset(file.namelist())
            except zipfile.BadZipFile as error:
                raise ValueError(f"cannot read {self.zip_path}: {error}") from error

    def __contains__(self, name: str) -> bool:
        return name in self.members or (self.folder / name).is_file()

    def __call__(self, name: str) -> Image.Image:
        if name not in self.members:
            return Image.open(self.folder / name)
        if os.getpid() not in self.handles:
            self.handles = {os.getpid(): zipfile.ZipFile(self.zip_path)}
        return Image.open(io.BytesIO(self.handles[os.getpid()].read(name)))

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "handles": {}}


def _from_lists(spec: str, folder: Path, lists: list[Path]) -> ImageData:
    files = _Files(folder)
    splits = {path.stem: Split(*_read_list(path, files), files) for path in lists}
    top = max((max(split.labels) for split in splits.values() if split.labels), default=-1)
    names_file = folder / "classes.txt"
    classes = names_file.read_text("utf-8-sig").split("\n") if names_file.exists() else []
    classes = [name.strip() for name in classes if name.strip()] or [str(label) for label in range(top + 1)]
    if top >= len(classes):
        raise ValueError(f"{folder}: label {top} in a list, but classes.txt names only {len(classes)} classes")
    return ImageData(spec, tuple(classes), splits)


def _read_list(path: Path, files: _Files) -> tuple[tuple[str, ...], tuple[int, ...]]:
    names, labels = [], []
    for number, line in enumerate(path.read_text("utf-8-sig", "surrogateescape").splitlines(), start=1):
        if not line.strip():
            continue
        name, label = (*line.strip().rsplit(maxsplit=1), "")[:2]
        if not label.isdecimal():
            raise ValueError(f"{path}, line {number}: expected `path label` with a label from 0, got {line!r}")
        if name not in files:
            raise ValueError(f"{path}, line {number}: no image {name!r} in {path.parent} or its images.zip")
        names.append(name)
        labels.append(int(label))
    if not names:
        raise ValueError(f"{path} is empty")
    return tuple(names), tuple(labels)


def _class_images(folder: Path) -> dict[str, list[str]]:
    found = {}
    for child in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        images = sorted(str(p) for p in child.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
        if not images:
            raise ValueError(f"the class folder {child} holds no image ({', '.join(EXTENSIONS)})")
        found[child.name] = images
    if not found:
        raise ValueError(f"{folder} holds no class folders")
    return found


def _from_split_folders(spec: str, subfolders: dict[str, Path]) -> ImageData:
    names = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    images = {names[name]: _class_images(path) for name, path in subfolders.items() if name in names}
    classes = sorted(images["train"])
    splits = {}
    for name, by_class in images.items():
        unknown = sorted(set(by_class) - set(classes))
        if unknown:
            raise ValueError(f"{spec}: {name} has the class {unknown[0]!r}, which train does not have")
        pairs = [(path, classes.index(label)) for label, paths in by_class.items() for path in paths]
        splits[name] = Split(*_columns(pairs), Image.open)
    return ImageData(spec, tuple(classes), splits)


def _from_class_folders(spec: str, folder: Path) -> ImageData:
    by_class = _class_images(folder)
    parts: dict[str, list[tuple[str, int]]] = {"train": [], "val": [], "test": []}
    for label, paths in enumerate(by_class.values()):
        relative = {path: str(Path(path).relative_to(folder)) for path in paths}
        mixed = sorted(
            paths, key=lambda path: hashlib.sha256(relative[path].encode("utf-8", "surrogateescape")).digest()
        )
        tenth = len(mixed) // 10
        if tenth == 0:
            raise ValueError(
                f"{folder}: class {list(by_class)[label]!r} has only {len(mixed)} images, too few for 80 / 10 / 10: "
                "make train/, val/ and test/ folders yourself"
            )
        for name, part in zip(parts, (mixed[2 * tenth :], mixed[:tenth], mixed[tenth : 2 * tenth]), strict=True):
            parts[name] += [(path, label) for path in part]
    splits = {name: Split(*_columns(sorted(pairs)), Image.open) for name, pairs in parts.items()}
    return ImageData(spec, tuple(by_class), splits)


def _columns(pairs: list[tuple[str, int]]) -> tuple[tuple[str, ...], tuple[int, ...]]:
    return tuple(path for path, _ in pairs), tuple(label for _, label in pairs)
