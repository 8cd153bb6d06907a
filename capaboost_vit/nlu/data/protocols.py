"""Which examples are trained on, which choose the epoch, and which are tested on.

GLUE's own test sets have no public labels. So the public dev set stands in for them, and what chooses the best epoch is
taken from elsewhere; a result says by which protocol it was made:

- own: the splits as they are in the data;
- dev: train, and the public dev set as val; no test;
- halves: all of train; half of the public dev set as val, and the other half as test (for small tasks);
- thousand: 1,000 examples of train as val, the others as train, and the public dev set as test (for large tasks).

What is drawn is a function of the protocol and the seed, on every platform.
"""

from __future__ import annotations

import numpy as np

from ...core.masks import random_state
from .split import TextSplit

PROTOCOLS = ("own", "dev", "halves", "thousand")
_THOUSAND = 1000
_KINDS = ("", "_mismatched")  # MNLI has a second dev set, and a second test set


def apply_protocol(spec: str, splits: dict[str, TextSplit], *, protocol: str, seed: int) -> dict[str, TextSplit]:
    """The splits of a protocol. Of MNLI, `val` and `test` are the matched sets, `*_mismatched` the others.

    halves: the permutation of a dev set of n examples is cut behind its n // 2 first ones, which become val; examples
    keep their order. thousand: the first 1,000 of the permutation of train become val; where there is no dev set, the
    test set of the data stays the test set, if it has one.

    Raises:
        ValueError: no dev set to halve; too few examples.
    """
    if protocol == "own":
        return splits
    needed = "train" if protocol == "thousand" else "val"
    if needed not in splits:
        raise ValueError(
            f"{spec}: the split protocol {protocol!r} needs a {needed} set; there is: {', '.join(splits)}. "
            "Choose own to take the splits as they are"
        )
    if protocol == "dev":
        return {name: split for name, split in splits.items() if not name.startswith("test")}
    if protocol == "halves":
        made = {name: split for name, split in splits.items() if name == "train"}
        for kind in _KINDS:
            if f"val{kind}" in splits:
                made[f"val{kind}"], made[f"test{kind}"] = _halves(spec, splits[f"val{kind}"], seed)
        return made
    val, train = _cut(spec, splits["train"], _THOUSAND, "thousand", seed)
    made = {"train": train, "val": val}
    for kind in _KINDS:
        test = splits.get(f"val{kind}", splits.get(f"test{kind}"))
        if test is not None:
            made[f"test{kind}"] = test
    return made


def _halves(spec: str, split: TextSplit, seed: int) -> tuple[TextSplit, TextSplit]:
    return _cut(spec, split, max(1, len(split) // 2), "halves", seed)


def _cut(spec: str, split: TextSplit, count: int, protocol: str, seed: int) -> tuple[TextSplit, TextSplit]:
    """As many examples as are asked for, drawn, and the others; both in the order of the split."""
    if len(split) <= count:
        raise ValueError(
            f"{spec}: the split protocol {protocol!r} takes {count:,} examples of a set, and one has only "
            f"{len(split):,}: choose own, dev or halves"
        )
    order = random_state(seed, f"split protocol {protocol}").permutation(len(split))
    return split.take(np.sort(order[:count])), split.take(np.sort(order[count:]))
