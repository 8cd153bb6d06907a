"""Split expressions: parts of a data set that have no name of their own, such as `train[:800]+validation[:200]`.

    expression = part, or parts with + between them, none of whose images is in two of them
    part       = a split's name or mixed(expression), and slices of it in turn: train, train[90%:][:200]
    slice      = [from:to], each an image's number, a percentage or nothing; negative ones count from the end

Numbers and percentages are those of `datasets.ReadInstruction`: a percentage is rounded to the nearest image. But a
bound beyond the last image is an error, percentages included. `mixed` puts the images into a fixed order that only
depends on their names, for sets that are sorted by class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations
from typing import NamedTuple

from PIL import Image

from .split import Split, name_digest

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
    return _parse(text, expression=text)


def _parse(text: str, *, expression: str) -> tuple[Part, ...]:
    pieces, depth = [""], 0
    for sign in text:
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if sign == "+" and depth == 0:  # what is in parentheses is parsed with its part
            pieces.append("")
        else:
            pieces[-1] += sign
    return tuple(_parse_part(piece.strip(), expression) for piece in pieces)


def _parse_part(text: str, expression: str) -> Part:
    source, slices = text, list[tuple[str | None, str | None]]()
    while match := _SLICE.search(source):  # the last one first
        slices.insert(0, (match[1], match[2]))
        source = source[: match.start()].rstrip()
    mixed = _MIXED.fullmatch(source)
    if not mixed and not _NAME.fullmatch(source):
        raise ValueError(
            f"cannot read {text!r} in the split {expression!r}: write names, slices and sums of splits, such as "
            "train[:800], train[90%:][:200], train+val, mixed(train)[:90%]"
        )
    return Part(text, _parse(mixed[1], expression=expression) if mixed else source, tuple(slices))


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
        self.sources: dict[str, Split] = {}  # splits that are opened in the same way stand here once

    def resolve(self, parts: Sequence[Part]) -> Split:
        """The images of an expression.

        Images of several sources, such as the splits of a table, are called `source: name`, as each of them may have
        the same rows.

        Raises:
            ValueError: a slice without an image or beyond the last one, an image in two parts, or what `get` raises.
        """
        images = self._sum(parts)
        first, labels = next(iter(self.sources.values())), tuple(image.label for image in images)
        if len(self.sources) == 1:
            return replace(first, names=tuple(image.name for image in images), labels=labels)
        names = tuple(f"{image.source}: {image.name}" for image in images)
        sources = {source: replace(split, names=(), labels=()) for source, split in self.sources.items()}
        return Split(names, labels, partial(_read, sources), partial(_locate, sources))

    def _sum(self, parts: Sequence[Part]) -> list[_Image]:
        images = [self._part(part) for part in parts]
        for (one, first), (other, second) in combinations(zip(parts, images, strict=True), 2):
            shared = {image[:2] for image in first} & {image[:2] for image in second}
            if shared:
                source, name = min(shared)
                where = self.sources[source].locate(name)
                count = "an image" if len(shared) == 1 else f"{len(shared)} images"
                raise ValueError(f"{self.spec}: {one.text} and {other.text} share {count}, such as {where}")
        return [image for part in images for image in part]

    def _part(self, part: Part) -> list[_Image]:
        if isinstance(part.source, str):
            name, split = self.get(part.source)
            # lists of one folder share its files: an image in two of them is one image
            name = next((other for other, source in self.sources.items() if source.open == split.open), name)
            self.sources.setdefault(name, split)
            images = [_Image(name, *image) for image in zip(split.names, split.labels, strict=True)]
        else:
            images = sorted(self._sum(part.source), key=lambda image: name_digest(image.name))
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


def _read(sources: dict[str, Split], name: str) -> bytes | Image.Image:
    """Reads `source: name` as the source does."""
    source, _, name = name.partition(": ")
    return sources[source].open(name)


def _locate(sources: dict[str, Split], name: str) -> str:
    source, _, name = name.partition(": ")
    return sources[source].locate(name)
