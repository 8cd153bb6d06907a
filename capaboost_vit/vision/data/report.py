"""What a check of a data set found, as values, as a list of problems, and as a page of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from ...io.printable import printable
from .look_alikes import THRESHOLD
from .pixels import Values

_WIDTH = 80
_LISTED = 10
_FEW = 5


@dataclass(frozen=True)
class SplitReport:
    """One split: its images, and images per class; reasons by index; kinds of odd images; smallest, median, largest;
    its `Split.record` if all can be read.
    """

    images: int
    class_counts: tuple[int, ...]
    unreadable: dict[int, str]
    odd: dict[str, int]
    sizes: tuple[tuple[int, int], tuple[int, int], tuple[int, int]] | None  # (width, height) by area
    record: dict[str, int | str] | None


@dataclass(frozen=True)
class Shared:
    """How many images are also elsewhere, and where the first of them is found twice."""

    count: int
    example: tuple[str, str]


class Pair(NamedTuple):
    """Two images that look alike: split and number of each, where they are found, and what makes the pair grave."""

    places: tuple[tuple[str, int], tuple[str, int]]
    where: tuple[str, str]
    correlation: float
    across: bool  # in two splits that must not share images
    contradicts: bool  # under two labels


@dataclass(frozen=True)
class DataReport:
    """What `check_data` found.

    Args:
        copies: by split, images that occur in it again.
        shared: by pair of splits, images of the second that are in the first too.
        contradictions: one line per image that stands under several labels.
        left_out: which files are read as nothing, a line each.
        values: what the images of each class hold, by kind; empty where all have 8 bits.
        advice: how they should be read, where that is not as they are now.
        look_alikes: pairs to look at, those under two labels first, then those in two splits.
    """

    spec: str
    classes: tuple[str, ...]
    splits: dict[str, SplitReport]
    copies: dict[str, Shared]
    shared: dict[tuple[str, str], Shared]
    contradictions: tuple[str, ...]
    unlabelled: tuple[str, ...] = field(default=())
    left_out: tuple[str, ...] = field(default=())
    values: dict[str, tuple[Values, ...]] = field(default_factory=dict)
    advice: tuple[str, ...] = field(default=())
    look_alikes: tuple[Pair, ...] = field(default=())

    @property
    def problems(self) -> list[str]:
        """What should be put right, or known, before training: one line each, the gravest first."""
        return [*self.grave, *self.slight]

    @property
    def grave(self) -> list[str]:
        """Images unreadable, in two splits, of one class, or of a wrong range: with them no result is worth much."""
        lines = [f"{name}: {reason}" for name, part in self.splits.items() for reason in part.unreadable.values()]
        for (one, other), shared in self.shared.items():
            lines.append(f"{one} and {other} share {images(shared.count)}, such as {' and '.join(shared.example)}")
        lines += self.advice
        if len(self.classes) == 1:
            lines.append(f"all images are of one class, {self.classes[0]}: is this the folder of the class folders?")
        return lines

    @property
    def slight(self) -> list[str]:
        """What official sets have too: contradictions, copies, classes without images, splits without labels."""
        lines = [f"one image under several labels: {line}" for line in self.contradictions]
        for name, copies in self.copies.items():
            where = " and ".join(copies.example)
            lines.append(f"{name} holds {images(copies.count)} more than once, such as {where}")
        for name, part in self.splits.items():
            missing = [self.classes[i] for i, count in enumerate(part.class_counts) if count == 0]
            if missing:
                lines.append(f"{name} has no image of {_some(missing)}")
        lines += [f"{name} has no labels and is left out" for name in self.unlabelled]
        return lines

    def text(self) -> str:
        """The report for a terminal: at most 80 columns, long lists abbreviated."""
        return "".join(f"{printable(line.rstrip())}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield from _wrap(f"{self.spec}: {len(self.classes)} classes", "")
        yield ""
        yield f"{'split':15} {'images':>8} {'unreadable':>10}   smallest, median, largest image"
        for name, part in self.splits.items():
            sizes = ", ".join(f"{width}x{height}" for width, height in part.sizes or ())
            yield f"{_short(name, 15):15} {part.images:>8} {len(part.unreadable):>10}   {sizes}"
        yield ""
        yield from self._class_lines()
        yield ""
        odd = {name: part.odd for name, part in self.splits.items() if part.odd}
        yield "Unusual images, which are read nevertheless:" if odd else "No unusual images."
        for name, kinds in odd.items():
            yield from _wrap(f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in kinds.items()), "  ")
        yield ""
        yield from self._value_lines()
        yield from self._look_alike_lines()
        for line in self.left_out:
            yield from _wrap(line, "")
        if self.left_out:
            yield ""
        problems = self.problems
        yield f"Problems: {len(problems)}" if problems else "No problems found."
        for line in problems[:_LISTED]:
            yield from _wrap(line, "  ")
        if len(problems) > _LISTED:
            yield f"  and {len(problems) - _LISTED} more"

    def _value_lines(self) -> Iterator[str]:
        """Kind and range of the values of each class, where not all images have 8 bits."""
        if not self.values:
            return
        yield "values per class"
        for name, kinds in list(self.values.items())[: 2 * _LISTED + 4]:
            texts = (f"{values.kind} {values.low:g} to {values.high:g}" for values in kinds)
            yield from _wrap(f"{_short(name, 40)}: {', '.join(texts)}", "  ")
        if len(self.values) > 2 * _LISTED + 4:
            yield f"  and {len(self.values) - 2 * _LISTED - 4} more classes"
        yield ""

    def _look_alike_lines(self) -> Iterator[str]:
        if not self.look_alikes:
            return
        across, two = sum(pair.across for pair in self.look_alikes), sum(pair.contradicts for pair in self.look_alikes)
        count = len(self.look_alikes)
        yield from _wrap(
            f"{count:,} pair{'s' * (count > 1)} of images look alike ({across:,} in two splits, {two:,} under two "
            f"labels); correlation of thumbnails above {THRESHOLD}:",
            "",
        )
        for pair in self.look_alikes[:_LISTED]:
            yield from _wrap(f"{pair.correlation:.3f}  {pair.where[0]} and {pair.where[1]}", "  ")
        if count > _LISTED:
            yield f"  and {count - _LISTED:,} more"
        yield ""

    def _class_lines(self) -> Iterator[str]:
        """Images per class and split: all, or the rarest and the most frequent by their sum."""
        shown = list(self.splits)[:5]
        totals = [sum(self.splits[name].class_counts[i] for name in shown) for i in range(len(self.classes))]
        order = list(range(len(self.classes)))
        if len(order) > 2 * _LISTED + 4:
            by_size = sorted(order, key=lambda i: (totals[i], i))
            order = [*by_size[:_LISTED], -1, *by_size[-_LISTED:]]
        columns = {name: min(14, max(8, len(name))) for name in shown}
        room = _WIDTH - sum(columns.values()) - len(columns)
        wide = min(room, max(16, *(len(name) for name in self.classes)))
        yield f"{'images per class':{wide}}" + "".join(f" {_short(name, 14):>{w}}" for name, w in columns.items())
        for i in order:
            if i < 0:
                yield f"... {len(self.classes) - 2 * _LISTED} classes between the rarest and the most frequent"
                continue
            counts = ((self.splits[name].class_counts[i], width) for name, width in columns.items())
            yield f"{_short(self.classes[i], wide):{wide}}" + "".join(f" {count:>{width}}" for count, width in counts)
        few = {name: sum(0 < count < _FEW for count in part.class_counts) for name, part in self.splits.items()}
        if any(few.values()):
            counts_of_splits = ", ".join(f"{name} {count} classes" for name, count in few.items() if count)
            yield from _wrap(f"with 1 to {_FEW - 1} images: {counts_of_splits}", "")


def images(count: int) -> str:
    """`1 image`, `2 images`."""
    return "1 image" if count == 1 else f"{count:,} images"


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ("1 class: " if len(names) == 1 else f"{len(names)} classes: ") + ", ".join(names[:_LISTED]) + rest


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _wrap(text: str, indent: str) -> list[str]:
    deeper = indent + "  "
    return textwrap.wrap(text, _WIDTH, initial_indent=indent, subsequent_indent=deeper, break_on_hyphens=False)
