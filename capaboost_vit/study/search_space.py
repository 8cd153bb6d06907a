"""Search space: one axis for each option that is searched, a list or a range of its values, as coordinates."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..io.options import suggest
from .methods import axes_of, times_own

_RANGE = {"low", "high", "log"}
_DIGITS = 3  # of a value in a range: a rate of 0.00317 can be typed again


@dataclass(frozen=True)
class Axis:
    """The values of one option.

    Args:
        name: of the option. own: the value that the method has.
        values: the list to choose from, whose coordinate is the place in it; empty: a range.
        low, high: the ends of a range, whose coordinate is the value, or its logarithm to base 10 with `log`.
    """

    name: str
    own: Any
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False

    @property
    def ordered(self) -> bool:
        """Whether near coordinates mean near values: of ranges, and of lists of numbers."""
        return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in self.values)

    @property
    def whole(self) -> bool:
        """Whether coordinates are whole numbers: of lists, and of ranges of whole numbers."""
        return bool(self.values) or (not self.log and isinstance(self.low, int) and isinstance(self.high, int))

    def bounds(self) -> tuple[float, float]:
        """The least and the largest coordinate."""
        if self.values:
            return 0, len(self.values) - 1
        return (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)

    def value(self, coordinate: float) -> Any:
        """The value at a coordinate; of a range in three digits, or a whole number where both ends are."""
        if self.values:
            return self.values[round(coordinate)]
        number = 10.0**coordinate if self.log else coordinate
        if isinstance(self.low, int) and isinstance(self.high, int):
            return min(max(round(number), self.low), self.high)
        return float(min(max(float(f"{number:.{_DIGITS}g}"), self.low), self.high))

    def start(self) -> float:
        """The coordinate of the method's own value, or the nearest; the middle of a list without it."""
        low, high = self.bounds()
        if self.values:
            return self.values.index(self.own) if self.own in self.values else len(self.values) // 2
        if not isinstance(self.own, (int, float)) or (self.log and self.own <= 0):
            return round((low + high) / 2) if self.whole else (low + high) / 2
        return min(max(math.log10(self.own) if self.log else self.own, low), high)

    def at_the_edge(self, value: Any) -> bool:
        """Whether a value is the smallest or the largest that could have been chosen."""
        ends = (min(self.values), max(self.values)) if self.values and self.ordered else (self.low, self.high)
        return value in ends and ends[0] != ends[1] and (self.ordered or not self.values)


def search_axes(grid: Mapping[str, Any], options: Mapping[str, Any]) -> list[Axis]:
    """The axes of a method: of `--grid`'s options those that it has; an entry is a list, or a range.

    A range is `{low: 1e-4, high: 1e-1, log: true}`; `x0.3` is 0.3 times the method's own value in both.

    Raises:
        ValueError, TypeError: an option that does not exist; a range without two ends, in the wrong order, or with a
            logarithm of what is not positive.
    """
    return list(_axes(grid, options))


def _axes(grid: Mapping[str, Any], options: Mapping[str, Any]) -> Iterator[Axis]:
    for name, entry, own in axes_of(grid, options):
        where = f"--grid {name}"
        if isinstance(entry, list):
            yield Axis(name, own, values=tuple(times_own(value, own, where) for value in entry))
            continue
        for key in entry.keys() - _RANGE:
            raise ValueError(
                f"{where}: a range has no {key!r}{suggest(key, _RANGE)}: {{low: 1e-4, high: 1e-1, log: true}}"
            )
        low, high = (times_own(entry.get(end), own, where) for end in ("low", "high"))
        log = bool(entry.get("log", False))
        if not all(isinstance(end, (int, float)) for end in (low, high)) or not low < high or (log and low <= 0):
            raise ValueError(
                f"{where}: expected a list, or a range such as {{low: 1e-4, high: 1e-1, log: true}}, got {dict(entry)}"
            )
        yield Axis(name, own, low=low, high=high, log=log)
