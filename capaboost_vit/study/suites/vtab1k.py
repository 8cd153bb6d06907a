"""The 19 tasks of VTAB-1k, and where their images are looked for.

Zhai et al. 2019, "A Large-scale Study of Representation Learning with the Visual Task Adaptation Benchmark": 800 images
to train candidates on and 200 to choose by, all 1,000 for the final run, one test at the end. Which images these are is
defined by slices of TensorFlow Datasets (TFDS). They are had from

- the folders or zips that most repositories use, with lists train800.txt, val200.txt, train800val200.txt and test.txt;
- sets of the hub with splits train800, val200 and test: `bramtoula/vtab_*`;
- parquet made from TFDS, `dpdl-benchmark/*`, sliced as TFDS slices its own. Nobody has verified that its images stand
  in TFDS's order, so these tasks carry a note; `capaboost study check` can tell for some of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from ...io.yaml import parse_yaml
from .task import SuiteTask

if TYPE_CHECKING:
    from .places import DataLayout


class Vtab(NamedTuple):
    """One task of VTAB-1k, as vtab1k.yaml has and explains it; `folder` and `tfds` without a word of it are `name`."""

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


TASKS = tuple(
    Vtab(**{"name": name, "folder": name, "tfds": name, **values})
    for name, values in parse_yaml(resources.files(__package__).joinpath("vtab1k.yaml").read_text("utf-8")).items()
)

_SYNTHETIC = "synthetic images: the time means something, the accuracy nothing"
_LISTS = ("train800", "val200", "test")
_PLAIN = ("train", "val", "test", "train+val")
_NOT_EXACT = "not VTAB-exact: the order of the images is not verified"
_CLEVR = "tested on the split test of the hub's set, which is taken for TFDS's validation"
_JPEG = "JPEG copies of images that are lossless in the original"
_CIFAR = "with JPEG copies CIFAR-100 is 10 to 15 points lower"


def synthetic_tasks() -> tuple[SuiteTask, ...]:
    """The 19 tasks with their sizes and classes on generated images of 224 pixels, to measure the time of them all."""
    return tuple(
        _task(row, f"synthetic:{row.classes}:800:200:{row.test_images}:224", *_PLAIN, (_SYNTHETIC,), {})
        for row in TASKS
    )


def folders(row: Vtab) -> tuple[str, ...]:
    """Where below the data root a task may lie, best first."""
    exact = (f"vtab_{row.name}",) if row.exact else ()
    return tuple(dict.fromkeys((row.folder, f"{row.folder}.zip", *exact, row.tfds, f"{row.tfds}.zip")))


def task_at(row: Vtab, place: DataLayout) -> SuiteTask | None:
    """The task with the data of a place; None if the place cannot hold it."""
    if place.splits >= set(_LISTS):
        jpeg = place.jpeg and row.lossless
        return _exact(row, str(place.path), full="train800val200" in place.splits, jpeg=jpeg)
    return _sliced(row, str(place.path), place.splits) if place.table else None


def task_on_hub(row: Vtab) -> SuiteTask | None:
    """The task with the data of the hub; None if the hub has none."""
    if row.exact:
        return _exact(row, f"bramtoula/vtab_{row.name}", full=False, jpeg=False)
    return None if row.name == "diabetic_retinopathy" else _sliced(row, f"dpdl-benchmark/{row.tfds}", frozenset())


def hint(row: Vtab) -> str:
    """How to come by the data."""
    where = f"below the folder of --data, as {row.folder} with VTAB-1k's lists"
    if row.name == "diabetic_retinopathy":
        return f"ask Kaggle for Diabetic Retinopathy Detection by hand, and put it {where}"
    return f"bash scripts/get_vtab1k.sh fetches it from the hub; or put it {where}"


def _exact(row: Vtab, data: str, *, full: bool, jpeg: bool) -> SuiteTask:
    notes = (_JPEG, *((_CIFAR,) if row.name == "cifar100" else ())) if jpeg else ()
    return _task(row, data, *_LISTS, "train800val200" if full else "train800+val200", notes, {})


def _sliced(row: Vtab, data: str, splits: frozenset[str]) -> SuiteTask:
    options = {} if row.label is None else {"label_column": row.label}
    notes: tuple[str, ...] = (_NOT_EXACT,)
    test = row.test
    if test == "validation" and test not in splits:  # CLEVR on the hub has train and test alone
        notes, test = (*notes, _CLEVR), "test"
    return _task(row, data, "train[:800]", row.val, test, f"train[:800]+{row.val}", notes, options)


def _task(
    row: Vtab, data: str, train: str, val: str, test: str, full: str, notes: tuple[str, ...], options: dict[str, str]
) -> SuiteTask:
    # the usual zip has an image of Caltech101 more than TFDS
    tests: int | tuple[int, ...] = (6_084, 6_085) if row.name == "caltech101" else row.test_images
    sizes: dict[str, int | tuple[int, ...]] = {"train": 800, "val": 200, "full": 1_000, "test": tests}
    return SuiteTask(row.name, data, row.group, row.classes, sizes, train, val, full, test, options, notes)
