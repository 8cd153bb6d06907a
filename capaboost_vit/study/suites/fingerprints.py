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
from .vtab1k import TASKS


class Hashes(NamedTuple):
    """Of one split: the hash of its names, and that of its numbers of images per class; None where it is unknown."""

    names: str
    counts: str | None = None


# by task: train and val
FINGERPRINTS = {
    row.name: (Hashes(**row.train_hashes), Hashes(**row.val_hashes))
    for row in TASKS
    if row.train_hashes is not None and row.val_hashes is not None
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
