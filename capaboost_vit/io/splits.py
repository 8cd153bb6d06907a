"""Splits of a data set by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

VAL_NAMES = ("val", "valid", "validation", "dev")  # usual names of what chooses the epoch
SPLIT_NAMES = {"train": "train", **dict.fromkeys(VAL_NAMES, "val"), "test": "test"}


def by_split(spec: str, names: Iterable[str], splits: Mapping[str, str], *, others: bool = False) -> dict[str, str]:
    """Files, folders or tables by the split that their name stands for, train first; an ending `.csv` does not count.

    Args:
        spec: the data set, for messages.
        splits: by the names that stand for them, in lower case.
        others: keep names that stand for no split.

    Raises:
        ValueError: there are two of one split.
    """
    named: dict[str, str] = {}
    for name in names:
        split = splits.get(name.partition(".")[0].lower(), name if others else None)
        if split in named:
            raise ValueError(f"{spec} holds {named[split]} and {name}, both {split}: keep one of them")
        if split is not None:
            named[split] = name
    order = list(dict.fromkeys(splits.values()))
    return {split: named[split] for split in sorted(named, key=lambda s: order.index(s) if s in order else len(order))}


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
