"""A data set in memory: its splits by name, alias or expression, and its classes; no pixels.

An expression is a part of a data set that has no name of its own, such as `train[:800]+validation[:200]`.

    expression = part, or parts with + between them, none of whose images is in two of them
    part       = a split's name, mixed(expression), or one of the two below, and slices of it in turn: train[90%:][:200]
    fold       = fold(expression, 2/5): the second of five folds; all_but_fold(expression, 2/5): the other four
    slice      = [from:to], each an image's number, a percentage or nothing; negative ones count from the end

Numbers and percentages are those of `datasets.ReadInstruction`: a percentage is rounded to the nearest image. But a
bound beyond the last image is an error, percentages included. `mixed` puts the images into a fixed order that only
depends on their names, for sets that are sorted by class. Folds are stratified: of each class, and in all, one has at
most one image more than another; a third argument is the seed by which images come into them, fold(train, 2/5, 1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from typing import Any, NamedTuple

from ...io.printable import printable
from ...io.sources import short_name
from ...io.tables import SPLIT_ALIASES, find_split
from .labels import Task
from .split import Split, join_splits, name_digest, of_sources

_ALIASES = {**SPLIT_ALIASES, "train": (*SPLIT_ALIASES["train"], "train800", "trainval")}
_ALIASES["val"] = (*SPLIT_ALIASES["val"], "val200")
_SIGNS = frozenset("+[]()")  # a text without them is a name
_NAME = re.compile(r"[^+\[\]()]*[^+\[\]()\s]")
_SLICE = re.compile(r"\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\]\s*$", re.ASCII)
_FOLD = re.compile(r"(all_but_)?fold\((.*),\s*(\d+)\s*/\s*(\d+)\s*(?:,\s*(\d+)\s*)?\)", re.DOTALL | re.ASCII)
_MIXED = re.compile(r"mixed\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Fold:
    """Fold `number` of `total`, from 1; or all others."""

    number: int
    total: int
    seed: int
    others: bool


@dataclass(frozen=True)
class Part:
    """A split's name, or what is mixed or folded; and the bounds of its slices, as they were written."""

    text: str
    source: str | tuple[Part, ...]
    slices: tuple[tuple[str | None, str | None], ...]
    fold: Fold | None = None


class _Image(NamedTuple):
    source: str  # the split that it is taken from
    name: str
    label: Any


@dataclass(frozen=True)
class ImageData:
    """The splits of a data set by name, and its class names, which are printable, in the order of the labels.

    `unlabelled` names splits that are there, but whose labels are not: nothing can be done with them here. `left_out`
    says, a line each, which files that lie there are read as nothing, and what labels are taken for.

    Args:
        task: what labels are: classes; numbers of tags, whose names are `classes`; or numbers, without `classes`.
        sources: the data sets that this one is made of, each of whose splits has a part in its split (see `several`).
    """

    spec: str
    classes: tuple[str, ...]
    splits: dict[str, Split]
    unlabelled: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    task: Task = "classification"
    sources: tuple[ImageData, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(map(printable, self.classes)))

    @property
    def task_classes(self) -> tuple[int, ...]:
        """Of each source, which is a task, the number of its classes; none of one source alone."""
        return tuple(len(source.classes) for source in self.sources)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The task of each class, which is its source; none of one source alone."""
        return tuple(short_name(source.spec) for source in self.sources for _ in source.classes)

    def split(self, name: str) -> Split:
        """A split by its name or a usual alias, in upper or lower case, or by an expression such as `train[:800]`,
        `train+val`, `mixed(train)[90%:]` (see above). Aliases are, of train: training, train800, trainval; of val:
        valid, validation, dev, val200; of test: testing.

        Images of several sources, such as the splits of a table, are called `source: name`, as each of them may have
        the same rows.

        Raises:
            ValueError: there is none, or it has no labels; a malformed expression, a slice that is empty or goes beyond
                the last image, an image in two parts of a sum.
        """
        if self.sources:
            return join_splits(
                {short_name(source.spec): source.split(name) for source in self.sources},
                starts=[*accumulate(self.task_classes, initial=0)],
            )
        if not _SIGNS & set(name) or name in self.splits or name in self.unlabelled:
            return self.splits[self._named(name)]
        sources: dict[str, Split] = {}
        images = self._sum(parse_split(name), sources)
        labels = tuple(image.label for image in images)
        if len(sources) == 1:
            (first,) = sources.values()
            return replace(first, names=tuple(image.name for image in images), labels=labels)
        names = tuple(f"{image.source}: {image.name}" for image in images)
        return of_sources(sources, names, labels)

    def label_text(self, label: Any) -> str:
        """A label for people."""
        if self.task == "regression":
            return f"{label:g}"
        if self.task == "multi-label":
            return " ".join(self.classes[tag] for tag in label) or "no tag"
        return self.classes[label]

    def has(self, name: str) -> bool:
        """Whether `split(name)` would succeed."""
        try:
            self.split(name)
        except ValueError:
            return False
        return True

    def _named(self, name: str) -> str:
        """The name that a split has here, from its name or alias."""
        return find_split(self.spec, (name, *_ALIASES.get(name, ())), self.splits, self.unlabelled)

    def _sum(self, parts: Sequence[Part], sources: dict[str, Split]) -> list[_Image]:
        """The images of all parts; notes in `sources` where they are from, splits that are opened alike once."""
        images = [self._part(part, sources) for part in parts]
        for (one, first), (other, second) in combinations(zip(parts, images, strict=True), 2):
            shared = {image[:2] for image in first} & {image[:2] for image in second}
            if shared:
                source, name = min(shared)
                where = sources[source].locate(name)
                count = "an image" if len(shared) == 1 else f"{len(shared)} images"
                raise ValueError(f"{self.spec}: {one.text} and {other.text} share {count}, such as {where}")
        return [image for part in images for image in part]

    def _part(self, part: Part, sources: dict[str, Split]) -> list[_Image]:
        if isinstance(part.source, str):
            name = self._named(part.source)
            split = self.splits[name]
            # lists of one folder share its files: an image in two of them is one image
            name = next((other for other, source in sources.items() if source.open == split.open), name)
            sources.setdefault(name, split)
            images = [_Image(name, *image) for image in zip(split.names, split.labels, strict=True)]
        elif part.fold is not None:
            images = _in_fold(self._sum(part.source, sources), part.fold)
            if not images:
                raise ValueError(f"{self.spec}: {part.text} is empty")
        else:
            images = sorted(self._sum(part.source, sources), key=lambda image: name_digest(image.name))
        for start, stop in part.slices:
            left = images[self._index(start or "0", images, part) : self._index(stop or "100%", images, part)]
            if not left:
                written = f"[{start or ''}:{stop or ''}] of {len(images)} images"
                raise ValueError(f"{self.spec}: {part.text} is empty: {written}")
            images = left
        return images

    def _index(self, bound: str, images: Sequence[_Image], part: Part) -> int:
        """The image at which a slice begins or ends."""
        from datasets import ReadInstruction

        number, of = int(bound.strip("-%")), len(images)
        # ReadInstruction would cut this off without a word
        if number > (100 if bound.endswith("%") else of):
            raise ValueError(f"{self.spec}: {part.text} goes beyond the last image: {bound} of {of} images")
        # asked without its sign: [-1%:] of ten images would be all of them, as -0 is 0
        (asked,) = ReadInstruction.from_spec(f"images[:{bound.lstrip('-')}]").to_absolute({"images": of})
        return of - asked.to if bound.startswith("-") else asked.to


def parse_split(text: str, *, within: str | None = None) -> tuple[Part, ...]:
    """The parts of an expression; its splits need not be there. Raises ValueError for one that is malformed.

    Args:
        within: the expression that it is a part of, for messages.
    """
    pieces, depth = [""], 0
    for sign in text:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "+" and depth == 0:  # what is in parentheses is parsed with its part
            pieces.append("")
        else:
            pieces[-1] += sign
    return tuple(_parse_part(piece.strip(), within or text) for piece in pieces)


def _parse_part(text: str, expression: str) -> Part:
    source, slices = text, list[tuple[str | None, str | None]]()
    while match := _SLICE.search(source):  # the last one first
        slices.insert(0, (match[1], match[2]))
        source = source[: match.start()].rstrip()
    if folded := _FOLD.fullmatch(source):
        fold = Fold(int(folded[3]), int(folded[4]), int(folded[5] or 0), folded[1] is not None)
        if not 1 <= fold.number <= fold.total or fold.total < 2:
            raise ValueError(f"{text!r} in the split {expression!r}: write folds as 1/5, 2/5, ..., 5/5, two at least")
        return Part(text, parse_split(folded[2], within=expression), tuple(slices), fold)
    mixed = _MIXED.fullmatch(source)
    if not mixed and not _NAME.fullmatch(source):
        raise ValueError(
            f"cannot read {text!r} in the split {expression!r}: write names, slices and sums of splits, such as "
            "train[:800], train[90%:][:200], train+val, mixed(train)[:90%], fold(train, 2/5)"
        )
    return Part(text, parse_split(mixed[1], within=expression) if mixed else source, tuple(slices))


def _in_fold(images: Sequence[_Image], fold: Fold) -> list[_Image]:
    """The images of a fold, or those of all others, in the order in which they came."""
    classes = {label: place for place, label in enumerate(dict.fromkeys(image.label for image in images))}
    mixed = sorted(images, key=lambda image: (classes[image.label], name_digest(image.name, "fold", fold.seed), image))
    inside = set(mixed[fold.number - 1 :: fold.total])  # dealt out class by class, as cards are
    return [image for image in images if (image in inside) != fold.others]
