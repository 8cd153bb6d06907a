"""Cases in the place of a cross product: each two values of different axes meet in one of them (pairwise testing)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable


def pairs(*axes: Iterable) -> list[tuple]:
    """Few combinations of the axes' values, found greedily, that hold every pair of values of two axes."""
    values = [list(axis) for axis in axes]
    product = list(itertools.product(*(range(len(axis)) for axis in values)))

    def held(places: tuple[int, ...]) -> set:
        return set(itertools.combinations(enumerate(places), 2))

    missing, cases = set().union(*map(held, product)), []
    while missing:
        best = max(product, key=lambda places: len(held(places) & missing))
        missing -= held(best)
        cases.append(tuple(axis[place] for axis, place in zip(values, best, strict=True)))
    return cases
