"""A few images of each class, the same whatever is trained on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from .split import Split, name_digest


def few_shot(split: Split, shots: int, *, seed: int, classes: Sequence[str]) -> Split:
    """`shots` images of each class: those with the lowest SHA-256 of (seed, name), in the order of the split.

    So the draw depends neither on the order of the images nor on any generator, and with the same seed fewer shots are
    a part of more.

    Args:
        classes: the names of all classes, in the order of the labels.

    Raises:
        ValueError: a class has fewer images.
    """
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(split.labels):
        by_label[label].append(index)
    drawn: list[int] = []
    for label, name in enumerate(classes):
        indices = by_label[label]
        if len(indices) < shots:
            few = [classes[i] for i in range(len(classes)) if len(by_label[i]) < shots]
            others = f", and {len(few) - 1} more have too few" if len(few) > 1 else ""
            raise ValueError(f"--shots {shots}: class {name!r} has {len(indices)} training images{others}")
        drawn += sorted(indices, key=lambda i: (name_digest(split.names[i], "few-shot", seed), i))[:shots]
    return split.only(sorted(drawn))
