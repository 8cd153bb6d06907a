"""Splits of a data set by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable

VAL_NAMES = ("val", "valid", "validation", "dev")  # usual names of what chooses the epoch


def find_split(spec: str, names: Iterable[str], splits: Collection[str], unlabelled: Collection[str] = ()) -> str:
    """The first of some names, the one asked for and its aliases, that is a split.

    Args:
        spec: the data set, for messages.
        unlabelled: splits that are there, but whose labels are not.

    Raises:
        ValueError: there is none, or it has no labels.
    """
    names = tuple(names)
    name = next((name for name in names if name in splits or name in unlabelled), None)
    if name is None:
        raise ValueError(f"{spec} has no split {names[0]!r}; it has: {', '.join(splits)}")
    if name not in splits:
        raise ValueError(f"{spec}: the split {name!r} has no labels")
    return name
