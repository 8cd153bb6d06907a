"""The five fine-grained sets of FGVC, and where their images are looked for.

CUB-200-2011, NABirds, Oxford Flowers, Stanford Dogs and Stanford Cars with their own training and test images. What is
ours in the protocol: where a set has no validation images, the last tenth of its training images, in a fixed order that
depends on their names alone, is what candidates are chosen by; other work draws this tenth otherwise. The final run is
on all training and validation images. A set lies in a folder of class folders, lists or parquet (see `open_data`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from .task import SuiteTask

if TYPE_CHECKING:
    from .places import DataLayout


class FineGrained(NamedTuple):
    """One set; the names of the folders where it is looked for, its hub id and what must be told of that."""

    name: str
    classes: int
    train_images: int  # with those for validation
    test_images: int
    names: tuple[str, ...]
    hub: str | None
    note: str | None = None


_DOGS = "not the official 12,000 / 8,580 images: the hub's set is split otherwise, so do not compare with papers"

TASKS = (
    FineGrained("cub", 200, 5_994, 5_794, ("cub", "caltech_birds2011"), "dpdl-benchmark/caltech_birds2011"),
    FineGrained("nabirds", 555, 23_929, 24_633, ("nabirds",), None),
    FineGrained("flowers", 102, 2_040, 6_149, ("flowers", "oxford_flowers102"), "dpdl-benchmark/oxford_flowers102"),
    FineGrained("dogs", 120, 12_000, 8_580, ("dogs", "stanford-dogs"), "amaye15/stanford-dogs", _DOGS),
    FineGrained("cars", 196, 8_144, 8_041, ("cars", "stanford_cars"), "tanganke/stanford_cars"),
)

_VAL = frozenset({"val", "valid", "validation", "dev"})


def folders(row: FineGrained) -> tuple[str, ...]:
    """Where below the data root a set may lie, best first."""
    return tuple(name + end for name in row.names for end in ("", ".zip"))


def task_at(row: FineGrained, place: DataLayout) -> SuiteTask | None:
    """The task with the data of a place; None if the place cannot hold it."""
    if not place.splits >= {"train", "test"}:
        return None
    foreign = row.hub is not None and place.path.name == row.hub.partition("/")[2]
    return _task(row, str(place.path), val=bool(_VAL & place.splits), foreign=foreign)


def task_on_hub(row: FineGrained) -> SuiteTask | None:
    """The task with the data of the hub; None if the hub has none."""
    return None if row.hub is None else _task(row, row.hub, val=row.name == "flowers", foreign=True)


def hint(row: FineGrained) -> str:
    """How to come by the data."""
    hub = "" if row.hub is None else f", or the hub's {row.hub}"
    return f"put train/ and test/ with a folder of images per class{hub} below the folder of --data, as {row.names[0]}"


def _task(row: FineGrained, data: str, *, val: bool, foreign: bool) -> SuiteTask:
    """`foreign`: whether it is the hub's set, or a download of it."""
    other = foreign and row.note is not None
    return SuiteTask(
        row.name,
        data,
        group="fine-grained",
        classes=row.classes,
        sizes={} if other else {"full": row.train_images, "test": row.test_images},
        train="train" if val else "mixed(train)[:90%]",
        val="val" if val else "mixed(train)[90%:]",
        full="train+val" if val else "train",
        notes=(row.note,) if other and row.note else (),
    )
