"""The data sets for image classification that torchvision can read and download."""

from __future__ import annotations

import inspect
import os
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ...io.options import suggest
from .image_data import ImageData
from .pixels import decode
from .split import Split
from .table_labels import number_labels

_BY_PARTS = {  # one part for all images is called train here
    "train": "Caltech101 Caltech256 EuroSAT SEMEION SUN397",
    "train test": "CIFAR10 CIFAR100 FER2013 FashionMNIST Food101 GTSRB KMNIST MNIST QMNIST RenderedSST2 STL10 SVHN "
    "StanfordCars USPS",
    "train val": "ImageNet Imagenette",
    "train val test": "CLEVRClassification DTD Flowers102 PCAM",
    "train valid test": "Country211",
    "train val trainval test": "FGVCAircraft",
    "trainval test": "OxfordIIITPet",
}
_SETS = {name: tuple(parts.split()) for parts, names in _BY_PARTS.items() for name in names.split()}
_LABELS = ("targets", "_labels", "labels", "y", "samples", "_samples")  # the last two hold (path, label)


def default_root() -> Path:
    """Where downloads go: `capaboost_vit/torchvision` in XDG_CACHE_HOME, or in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "capaboost_vit" / "torchvision"


def read_torchvision(spec: str, *, root: str | None = None, download: bool = False) -> ImageData:
    """`torchvision:NAME`, in upper or lower case, of the classification sets.

    Raises:
        ValueError: no such set, or it cannot be read. FileNotFoundError: it is not below the root. OSError: it cannot
            be downloaded.
    """
    name = _set_name(spec)
    folder = Path(root).expanduser() if root else default_root()
    parts: dict[str, Any] = {part: _part(name, part, folder, download) for part in _SETS[name]}
    labels = {part: _labels(images) for part, images in parts.items()}
    first = next(iter(parts.values()))
    names = getattr(first, "classes", None) or getattr(first, "categories", None)
    names = [" / ".join(n) if isinstance(n, tuple) else str(n) for n in names] if names else None
    classes, numbered, unlabelled = number_labels(spec, "label", labels, names)
    splits = {}
    for part, labels_of_part in numbered.items():
        image_names = tuple(f"image {i}" for i in range(len(labels_of_part)))
        locate = partial(_locate, f"torchvision's {name} {part} in {folder}")
        splits[part] = Split(image_names, labels_of_part, partial(_read, parts[part]), locate)
    return ImageData(spec, classes, splits, unlabelled)


def _read(images: Any, name: str) -> Image.Image:
    """`image i` as torchvision gives it."""
    return images[int(name.split()[1])][0]


def _locate(where: str, name: str) -> str:
    return f"{name} of {where}"


def _set_name(spec: str) -> str:
    asked = spec.partition(":")[2]
    by_lower = {name.lower(): name for name in sorted(_SETS)}
    if asked.lower() in by_lower:
        return by_lower[asked.lower()]
    names = by_lower.values()
    hint = suggest(spec, [f"torchvision:{name}" for name in names], cutoff=0) if asked else ""
    raise ValueError(f"{spec!r}: torchvision has no such set of labelled images{hint}; it has: {', '.join(names)}")


def _part(name: str, part: str, folder: Path, download: bool) -> Any:
    import torchvision.datasets

    kind = getattr(torchvision.datasets, name)
    options: dict[str, Any] = {"split": part, "train": part == "train", "download": download, "loader": _load}
    taken = inspect.signature(kind).parameters.keys() & options.keys()
    if download:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        return kind(str(folder), **{name: options[name] for name in taken})
    except Exception as error:  # RuntimeError where it is not there; whatever a damaged file leads to
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if download:
            raise OSError(
                f"torchvision's {name} cannot be had from the network or read in {folder}: {reason}"
            ) from error
        if isinstance(error, OSError) or "not found" in reason.lower() or "not present" in reason.lower():
            raise FileNotFoundError(
                f"torchvision's {name} ({part}) is not in {folder}: name its folder with --data-dir FOLDER, or let it "
                "be downloaded with --data-download"
            ) from error
        raise ValueError(f"cannot read torchvision's {name} ({part}) in {folder}: {reason}") from error


def _load(path: str | Path) -> Image.Image:
    """Instead of torchvision's loader, which drops transparency and turns nothing upright."""
    return decode(Path(path).read_bytes())


def _labels(images: Any) -> list[Any]:
    """All labels: from the attribute that holds them, where that agrees with some items; else from every item."""
    for name in _LABELS:
        stored = getattr(images, name, None)
        if stored is None or len(stored) != len(images):
            continue
        values = [value[1] if isinstance(value, tuple) else value for value in stored]
        labels = [value.item() if hasattr(value, "item") else value for value in values]
        if all(images[i][1] == labels[i] for i in {0, len(labels) // 2, len(labels) - 1} if labels):
            return labels
    return [images[i][1] for i in range(len(images))]
