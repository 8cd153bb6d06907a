"""What is known of VTAB-1k's own 800 and 200 images, to compare data with.

Hashes of the ids that TFDS gives for them, as E2VPT's repository lists them (github ChengHan111/E2VPT at 7a66e75,
vtab_trainval_splits.json; 14 tasks): of the names without folder and ending, and of the numbers of images per class
where the ids tell the class. Those of CIFAR-100, whose ids do not, are of a set that was made after this list. The list
is in no order that two tasks with the same images share, and holds neither labels nor test images: so there is nothing
here about orders and tests. Caltech101's names are not unique, five tasks are not in the list.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from ...vision.data import Split


class Hashes(NamedTuple):
    """Of one split: the hash of its names, and that of its numbers of images per class; None where it is unknown."""

    names: str | None
    counts: str | None


# by task: train and val
FINGERPRINTS: dict[str, tuple[Hashes, Hashes]] = {
    "cifar100": (
        Hashes("ac3a4b7f6d6c32f7", "ee31203b73923225"),
        Hashes("7996f329fc85b9ac", "7160106ceea0efa5"),
    ),
    "dtd": (Hashes("4fb3828efb453ee5", "db1778de70aa9481"), Hashes("0296f82629c5701d", "7816f70b14eab899")),
    "oxford_flowers102": (Hashes("b137420ca5f61551", None), Hashes("ec8358f7ddb40ea1", None)),
    "oxford_iiit_pet": (
        Hashes("4bd43760c20f8739", "563d52bc6a62174c"),
        Hashes("9101584f373a4934", "6a9ff16d8dc557b4"),
    ),
    "sun397": (
        Hashes("f90c82af9207b690", "7011b3fb3d98bcb7"),
        Hashes("079d9e5b2be7f091", "e4a644a634b0c930"),
    ),
    "patch_camelyon": (Hashes("21eaea5228a490c0", None), Hashes("d6e3e99d74f635b8", None)),
    "eurosat": (
        Hashes("ee44ba59847b55fd", "eb4f74e25a368afc"),
        Hashes("4bbbd8c76684e4e2", "8ab74c86c195612a"),
    ),
    "resisc45": (
        Hashes("1555d0ed84d48cf3", "3c8db390a777d812"),
        Hashes("03f87bcc1850a609", "009916ca1dca52d1"),
    ),
    "diabetic_retinopathy": (Hashes("287b231ea1feb0b9", None), Hashes("254204236451f6e1", None)),
    "clevr_count": (Hashes("ea22f798955ab466", None), Hashes("20bbd9bc48917df0", None)),
    "clevr_dist": (Hashes("ea22f798955ab466", None), Hashes("20bbd9bc48917df0", None)),
    "dmlab": (Hashes("7e29f7273d309b62", None), Hashes("38191ba23931b702", None)),
    "kitti": (Hashes("97de2df7b071af32", None), Hashes("91d314d84c19bda8", None)),
}


def hash_names(names: Iterable[str]) -> str:
    """Of the names without folder and ending, whatever their order."""
    return _hash(sorted(re.sub(r"\.\w+$", "", name.rpartition("/")[2]) for name in names))


def hash_counts(labels: Iterable[object]) -> str:
    """Of the numbers of images per class, whatever the classes are called."""
    return _hash(map(str, sorted(Counter(labels).values())))


def _hash(words: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(words).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def compare(task: str, train: Split, val: Split) -> tuple[bool | None, str]:
    """Whether these are VTAB-1k's own images for a task, as far as it can be told, and what that rests on.

    Returns:
        True for the same names or class counts, False for other class counts, None where nothing can be told.
    """
    official = FINGERPRINTS.get(task)
    if official is None:
        return None, "nothing is known to compare its images with"
    splits = (train, val)
    if all(one.names == hash_names(split.names) for one, split in zip(official, splits, strict=True)):
        return True, "train and val are VTAB-1k's own images, by their names"
    if any(one.counts is None for one in official):
        return None, "its images have other names than VTAB-1k's, and nothing else is known to compare them with"
    if all(one.counts == hash_counts(split.labels) for one, split in zip(official, splits, strict=True)):
        return True, "train and val have as many images of each class as in VTAB-1k"
    return False, "not VTAB-1k's images: train or val has other numbers of images per class"
