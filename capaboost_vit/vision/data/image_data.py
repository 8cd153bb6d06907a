"""A data set in memory: its splits by name, alias or expression, and its classes; no pixels."""

from __future__ import annotations

from dataclasses import dataclass

from ...io.tables import VAL_NAMES, find_split
from .expressions import Resolver, is_name, parse_split
from .split import Split

_ALIASES = {"train": ("train800", "trainval"), "val": (*VAL_NAMES, "val200")}


@dataclass(frozen=True)
class ImageData:
    """The splits of a data set by name, and its class names in the order of the labels.

    `unlabelled` names splits that are there, but whose labels are not: nothing can be done with them here.
    """

    spec: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    unlabelled: tuple[str, ...] = ()

    def split(self, name: str) -> Split:
        """A split by its name, by a usual alias (train: train800, trainval; val: valid, validation, dev, val200), or by
        an expression of names such as `train[:800]`, `train+val`, `mixed(train)[90%:]` (see `expressions`).

        Raises:
            ValueError: there is none, or it has no labels; a malformed expression, a slice that is empty or goes beyond
                the last image, an image in two parts of a sum.
        """
        if is_name(name) or name in self.splits or name in self.unlabelled:
            return self._named(name)[1]
        return Resolver(self.spec, self._named).resolve(parse_split(name))

    def has(self, name: str) -> bool:
        """Whether `split(name)` would succeed."""
        try:
            self.split(name)
        except ValueError:
            return False
        return True

    def _named(self, name: str) -> tuple[str, Split]:
        """A split by its name or alias, with the name that it has here."""
        name = find_split(self.spec, (name, *_ALIASES.get(name, ())), self.splits, self.unlabelled)
        return name, self.splits[name]
