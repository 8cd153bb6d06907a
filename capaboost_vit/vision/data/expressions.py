"""Split expressions: parts of a data set that have no name of their own, such as `train[:800]+validation[:200]`.

    expression = part, or parts with + between them, none of whose images is in two of them
    part       = a split's name or mixed(expression), and slices of it in turn: train, train[90%:][:200]
    slice      = [from:to], each an image's number, a percentage or nothing; negative ones count from the end

Numbers and percentages are those of TensorFlow Datasets and of Hugging Face's ReadInstruction: a percentage is rounded
to the nearest image. A bound beyond the last image is an error, percentages included. `mixed` puts the images into a
fixed order that only depends on their names, for sets that are sorted by class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from PIL import Image

from .names import name_digest

if TYPE_CHECKING:
    from .split import Split

_SIGNS = frozenset("+[]()")
_NAME = re.compile(r"[^+\[\]()]*[^+\[\]()\s]")
_SLICE = re.compile(r"\[\s*(-?\d+%?)?\s*:\s*(-?\d+%?)?\s*\]\s*$", re.ASCII)
_MIXED = re.compile(r"mixed\((.*)\)", re.DOTALL)


@dataclass(frozen=True)
class Part:
    """A split's name, or what is mixed; and the bounds of its slices, as they were written."""

    text: str
    source: str | tuple[Part, ...]
    slices: tuple[tuple[str | None, str | None], ...]


def is_name(text: str) -> bool:
    """Whether a text has none of the signs of expressions."""
    return not _SIGNS & set(text)


def parse_split(text: str) -> tuple[Part, ...]:
    """The parts of an expression; its splits need not be there. Raises ValueError for one that is malformed."""
    return _parse(text, whole=text)


def _parse(text: str, *, whole: str) -> tuple[Part, ...]:
    return tuple(_parse_part(piece.strip(), whole) for piece in _pieces(text))


def _pieces(text: str) -> list[str]:
    """What stands between the + that are in no parentheses."""
    pieces, depth = [""], 0
    for sign in text:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "+" and depth == 0:
            pieces.append("")
        else:
            pieces[-1] += sign
    return pieces


def _parse_part(text: str, whole: str) -> Part:
    source, slices = text, []
    while found := _SLICE.search(source):
        slices.append((found[1], found[2]))
        source = source[: found.start()].rstrip()
    mixed = _MIXED.fullmatch(source)
    if not mixed and not _NAME.fullmatch(source):
        raise ValueError(
            f"cannot read {text!r} in the split {whole!r}: write names, slices and sums of splits, such as "
            "train[:800], train[90%:][:200], train+val, mixed(train)[:90%]"
        )
    return Part(text, _parse(mixed[1], whole=whole) if mixed else source, tuple(reversed(slices)))


class _Image(NamedTuple):
    source: str
    name: str
    label: int


class Resolver:
    """Finds the images of expressions in one data set.

    Args:
        spec: the data set, for messages.
        get: from a split's name to its name without aliases and the split; raises ValueError if there is none.
    """

    def __init__(self, spec: str, get: Callable[[str], tuple[str, Split]]) -> None:
        self.spec, self.get = spec, get
        self.sources: dict[str, Split] = {}  # those that are opened in the same way stand here once

    def resolve(self, parts: Sequence[Part]) -> Split:
        """The images of an expression.

        Images of several sources, such as the splits of a table, are called `source: name`, as each of them may have
        the same rows.

        Raises:
            ValueError: a slice without an image or beyond the last one, an image in two parts, or what `get` raises.
        """
        found = self._sum(parts)
        first, labels = next(iter(self.sources.values())), tuple(image.label for image in found)
        if len(self.sources) == 1:
            return replace(first, names=tuple(image.name for image in found), labels=labels)
        several = _Several({source: (split.open, split.locate) for source, split in self.sources.items()})
        names = tuple(f"{image.source}: {image.name}" for image in found)
        return replace(first, names=names, labels=labels, open=several.read, locate=several.locate)

    def _sum(self, parts: Sequence[Part]) -> list[_Image]:
        found = [self._part(part) for part in parts]
        for (one, first), (other, second) in combinations(zip(parts, found, strict=True), 2):
            shared = {image[:2] for image in first} & {image[:2] for image in second}
            if shared:
                source, name = min(shared)
                where = self.sources[source].locate(name)
                count = "an image" if len(shared) == 1 else f"{len(shared)} images"
                raise ValueError(f"{self.spec}: {one.text} and {other.text} share {count}, such as {where}")
        return [image for images in found for image in images]

    def _part(self, part: Part) -> list[_Image]:
        if not isinstance(part.source, str):
            mixed = sorted(self._sum(part.source), key=lambda image: name_digest(image.name))
            return [mixed[i] for i in self._sliced(len(mixed), part)]
        name, split = self.get(part.source)
        name = next((known for known, other in self.sources.items() if other.open == split.open), name)
        self.sources.setdefault(name, split)
        return [_Image(name, split.names[i], split.labels[i]) for i in self._sliced(len(split), part)]

    def _sliced(self, count: int, part: Part) -> range:
        left = range(count)
        for bounds in part.slices:
            start, stop = (self._index(bound, len(left), part) for bound in bounds)
            if not left[start:stop]:
                written = ":".join(bound or "" for bound in bounds)
                raise ValueError(f"{self.spec}: {part.text} is empty: [{written}] of {len(left)} images")
            left = left[start:stop]
        return left

    def _index(self, bound: str | None, count: int, part: Part) -> int | None:
        if bound is None:
            return None
        index = round(int(bound[:-1]) * count / 100) if bound.endswith("%") else int(bound)
        if abs(index) > count:
            raise ValueError(f"{self.spec}: {part.text} goes beyond the last image: {bound} of {count} images")
        return count + index if bound.startswith("-") else index


class _Several:
    """Reads `source: name`."""

    def __init__(self, sources: dict[str, tuple[Callable[[str], bytes | Image.Image], Callable[[str], str]]]) -> None:
        self.sources = sources

    def read(self, name: str) -> bytes | Image.Image:
        """As the source reads it."""
        source, _, own = name.partition(": ")
        return self.sources[source][0](own)

    def locate(self, name: str) -> str:
        """Where the source finds it."""
        source, _, own = name.partition(": ")
        return self.sources[source][1](own)
