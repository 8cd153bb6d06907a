"""Successive halving over learning rates, whatever a short run is."""

from __future__ import annotations

import math
from collections.abc import Callable

PARTS = 8  # of the budget: each run of the first round takes one
_FACTOR = 2.0  # from rate to rate

Score = tuple[float, float]  # on val: the score, and among equals the lower loss, negated


def halve(run: Callable[[float, int], Score], usual: float, budget: int) -> float:
    """Successive halving: the best of several rates in short runs, of which the best two are compared in longer ones.

    The first round takes half of the usual rate, this, and twice it, an eighth of the budget each, and goes on
    to the next one for as long as the best is at the edge and three eighths are left for the second round.

    Args:
        run: the score of a run of so many updates at a rate.
        budget: updates in all.

    Raises:
        FloatingPointError: the best two have no score in the longer runs, as they diverge.
    """
    short = budget // PARTS
    scores = {rate: run(rate, short) for rate in (_rounded(usual / _FACTOR), usual, _rounded(usual * _FACTOR))}
    while len(scores) < PARTS - 3:
        best = max(scores, key=scores.__getitem__)
        if best not in (min(scores), max(scores)):
            break
        further = _rounded(best / _FACTOR if best == min(scores) else best * _FACTOR)
        scores[further] = run(further, short)
    two = sorted(scores, key=scores.__getitem__, reverse=True)[:2]
    final = {rate: run(rate, (budget - len(scores) * short) // 2) for rate in two}
    best = max(two, key=final.__getitem__)
    if final[best][0] == -math.inf:
        tried = ", ".join(f"{rate:g}" for rate in sorted(scores))
        raise FloatingPointError(f"--lr auto: short runs diverge at {tried}: say a smaller --lr, or add --clip-grad 1")
    return best


def _rounded(rate: float) -> float:
    """To three digits."""
    return float(f"{rate:.3g}")
