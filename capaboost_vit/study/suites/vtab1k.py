"""The 19 tasks of VTAB-1k, and where their images are looked for.

Zhai et al. 2019, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark": 800 images
to train candidates on and 200 to choose by, all 1,000 for the final run, one test at the end. Which images these are is
defined by slices of TensorFlow Datasets (TFDS). They are had from

- the folders or zips that most repositories use, with lists train800.txt, val200.txt, train800val200.txt and test.txt;
- sets of the hub with splits train800, val200 and test: `bramtoula/vtab_*`;
- parquet made from TFDS, `dpdl-benchmark/*`, sliced as TFDS slices its own. Nobody has verified that its images stand
  in TFDS's order, so these tasks carry a note; `capaboost study check` can tell for some of them.

The hashes of 14 tasks are of the ids that TFDS gives for the 800 and the 200 images, as E2VPT's repository lists them
(github ChengHan111/E2VPT at 7a66e75, vtab_trainval_splits.json): of the names without folder and ending, and of the
numbers of images per class where the ids tell the class. Those of CIFAR-100, whose ids do not, are of a set that was
made after this list. The list is in no order that two tasks with the same images share, and holds neither labels nor
test images: so nothing is said about orders and tests. Caltech101's names are not unique, five tasks are not in it.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...vision.data import Split
from .task import DataLayout, SuiteTask, read_rows

_SYNTHETIC = "synthetic images: the time means something, the accuracy nothing"
_LISTS = {"train": "train800", "val": "val200", "test": "test"}
_NOT_EXACT = "not VTAB-exact: the order of the images is not verified"
_CLEVR = "tested on the split test of the hub's set, which is taken for TFDS's validation"
_JPEG = "JPEG copies of images that are lossless in the original"
_CIFAR = "with JPEG copies CIFAR-100 is 10 to 15 points lower"


@dataclass(frozen=True, eq=False)
class Vtab:
    """One task of VTAB-1k, as vtab1k.yaml has and explains it; `folder` and `tfds` are its name if left out."""

    name: str
    group: str
    classes: int
    test_images: int
    folder: str
    tfds: str
    val: str = "validation[:200]"
    test: str = "test"
    label: str | None = None
    exact: bool = False
    lossless: bool = False
    train_hashes: Mapping[str, str] | None = None
    val_hashes: Mapping[str, str] | None = None

    def folders(self) -> tuple[str, ...]:
        """Where below the data root a task may lie, best first."""
        exact = (f"vtab_{self.name}",) if self.exact else ()
        return tuple(dict.fromkeys((self.folder, f"{self.folder}.zip", *exact, self.tfds, f"{self.tfds}.zip")))

    def task_at(self, place: DataLayout) -> SuiteTask | None:
        """The task with the data of a place; None if the place cannot hold it."""
        if place.splits >= set(_LISTS.values()):
            jpeg = place.jpeg and self.lossless
            return self._exact(str(place.path), full="train800val200" in place.splits, jpeg=jpeg)
        return self._sliced(str(place.path), place.splits) if place.table else None

    def task_on_hub(self) -> SuiteTask | None:
        """The task with the data of the hub; None if the hub has none."""
        if self.exact:
            return self._exact(f"bramtoula/vtab_{self.name}", full=False, jpeg=False)
        return None if self.name == "diabetic_retinopathy" else self._sliced(f"dpdl-benchmark/{self.tfds}", frozenset())

    def synthetic(self) -> SuiteTask:
        """The task with its sizes and classes on generated images of 224 pixels, to measure the time of them all."""
        return self._task(f"synthetic:{self.classes}:800:200:{self.test_images}:224", notes=(_SYNTHETIC,))

    def hint(self) -> str:
        """How to come by the data."""
        where = f"below the folder of --data, as {self.folder} with VTAB-1k's lists"
        if self.name == "diabetic_retinopathy":
            return f"ask Kaggle for Diabetic Retinopathy Detection by hand, and put it {where}"
        return f"bash scripts/get_vtab1k.sh fetches it from the hub; or put it {where}"

    def _exact(self, data: str, *, full: bool, jpeg: bool) -> SuiteTask:
        notes = (_JPEG, *((_CIFAR,) if self.name == "cifar100" else ())) if jpeg else ()
        return self._task(data, **_LISTS, full="train800val200" if full else "train800+val200", notes=notes)

    def _sliced(self, data: str, splits: frozenset[str]) -> SuiteTask:
        options = {} if self.label is None else {"label_column": self.label}
        splits_of_task = {"train": "train[:800]", "val": self.val, "test": self.test}
        notes: tuple[str, ...] = (_NOT_EXACT,)
        if self.test == "validation" and "validation" not in splits:  # CLEVR on the hub has train and test alone
            splits_of_task["test"], notes = "test", (*notes, _CLEVR)
        return self._task(data, **splits_of_task, full=f"train[:800]+{self.val}", notes=notes, options=options)

    def _task(self, data: str, **values: Any) -> SuiteTask:
        # the usual zip has an image of Caltech101 more than TFDS
        tests: int | tuple[int, ...] = (6_084, 6_085) if self.name == "caltech101" else self.test_images
        sizes = {"train": 800, "val": 200, "full": 1_000, "test": tests}
        return SuiteTask(self.name, data, group=self.group, classes=self.classes, sizes=sizes, **values)


TASKS = {row["name"]: Vtab(**{"folder": row["name"], "tfds": row["name"], **row}) for row in read_rows("vtab1k.yaml")}


def compare(task: str, train: Split, val: Split) -> tuple[bool | None, str]:
    """Whether these are VTAB-1k's own images for a task, as far as it can be told, and what that rests on.

    Returns:
        True for the same names or class counts, False for other class counts, None where nothing can be told.
    """
    row = TASKS.get(task)
    if row is None or row.train_hashes is None or row.val_hashes is None:
        return None, "nothing is known to compare its images with"
    pairs = [(row.train_hashes, train), (row.val_hashes, val)]
    if all(hashes["names"] == hash_names(split.names) for hashes, split in pairs):
        return True, "train and val are VTAB-1k's own images, by their names"
    if any("counts" not in hashes for hashes, _ in pairs):
        return None, "its images have other names than VTAB-1k's, and nothing else is known to compare them with"
    if all(hashes["counts"] == hash_counts(split.labels) for hashes, split in pairs):
        return True, "train and val have as many images of each class as in VTAB-1k"
    return False, "not VTAB-1k's images: train or val has other numbers of images per class"


def hash_names(names: Iterable[str]) -> str:
    """Of the names without folder and ending, whatever their order."""
    return _hash(sorted(re.sub(r"\.\w+$", "", name.rpartition("/")[2]) for name in names))


def hash_counts(labels: Iterable[object]) -> str:
    """Of the numbers of images per class, whatever the classes are called."""
    return _hash(map(str, sorted(Counter(labels).values())))


def _hash(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()[:16]
