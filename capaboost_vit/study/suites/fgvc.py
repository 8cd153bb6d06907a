"""The five fine-grained sets of FGVC, and where their images are looked for.

CUB-200-2011, NABirds, Oxford Flowers, Stanford Dogs and Stanford Cars with their own training and test images. What is
ours in the protocol: where a set has no validation images, the last tenth of its training images, in a fixed order that
depends on their names alone, is what candidates are chosen by; other work draws this tenth otherwise. The final run is
on all training and validation images. A set lies in a folder of class folders, lists or parquet (see `open_data`).
"""

from __future__ import annotations

from dataclasses import dataclass

from .task import DataLayout, SuiteTask, read_rows

_VAL = frozenset({"val", "valid", "validation", "dev"})


@dataclass(frozen=True, eq=False)
class FineGrained:
    """One set, as fgvc.yaml has and explains it."""

    name: str
    classes: int
    train_images: int
    test_images: int
    names: tuple[str, ...]
    hub: str | None = None
    note: str | None = None

    def folders(self) -> tuple[str, ...]:
        """Where below the data root the set may lie, best first."""
        return tuple(name + end for name in self.names for end in ("", ".zip"))

    def task_at(self, place: DataLayout) -> SuiteTask | None:
        """The task with the data of a place; None if the place cannot hold it."""
        if not place.splits >= {"train", "test"}:
            return None
        foreign = self.hub is not None and place.path.name == self.hub.partition("/")[2]
        return self._task(str(place.path), val=bool(_VAL & place.splits), foreign=foreign)

    def task_on_hub(self) -> SuiteTask | None:
        """The task with the data of the hub; None if the hub has none."""
        return None if self.hub is None else self._task(self.hub, val=self.name == "flowers", foreign=True)

    def hint(self) -> str:
        """How to come by the data."""
        hub = "" if self.hub is None else f", or the hub's {self.hub}"
        where = f"below the folder of --data, as {self.names[0]}"
        return f"put train/ and test/ with a folder of images per class{hub} {where}"

    def _task(self, data: str, *, val: bool, foreign: bool) -> SuiteTask:
        """`foreign`: whether it is the hub's set, or a download of it."""
        note = self.note if foreign else None
        return SuiteTask(
            self.name,
            data,
            group="fine-grained",
            classes=self.classes,
            sizes={} if note else {"full": self.train_images, "test": self.test_images},
            train="train" if val else "mixed(train)[:90%]",
            val="val" if val else "mixed(train)[90%:]",
            full="train+val" if val else "train",
            notes=(note,) if note else (),
        )


TASKS = {row["name"]: FineGrained(**row) for row in read_rows("fgvc.yaml")}
