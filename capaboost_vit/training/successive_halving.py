"""Successive halving over learning rates around the usual one, whatever a short run is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

PARTS = 8  # of the budget: each run of the first round takes one
_FACTOR = 2.0  # from rate to rate

Score = tuple[float, float]  # on val: the score, the higher the better, and the loss; -inf, inf of a run that diverged


def halve(
    run: Callable[[float, int], Score],
    usual: float,
    budget: int,
    *,
    error: Callable[[float], float] = lambda score: 0.0,
) -> float:
    """Successive halving: the best of several rates in short runs is compared with the usual one in longer ones.

    The first round takes half of the usual rate, this, and twice it, an eighth of the budget each, and goes on to the
    next one for as long as the best is at the edge, clearly better than its neighbour, and three eighths are left for
    the second round. Scores that are no further than the standard error from the best are as good as it, and the lower
    loss decides among them. The second round is between the usual rate and the best of the others, which is taken if it
    is better by more than two standard errors: of a hundred classes the first updates teach so little that differences
    are noise, and the usual rate is what has been good elsewhere.

    Args:
        run: score and loss of a run of so many updates at a rate.
        budget: updates in all.
        error: the standard error of a score.

    Raises:
        FloatingPointError: these two have no score in the longer runs, as they diverge.
    """
    short = budget // PARTS
    scores = {rate: run(rate, short) for rate in (_rounded(usual / _FACTOR), usual, _rounded(usual * _FACTOR))}
    while len(scores) < PARTS - 3:
        best, rates = _ranked(scores, error)[0], sorted(scores)
        if best not in (rates[0], rates[-1]):
            break
        neighbour = rates[1] if best == rates[0] else rates[-2]
        if scores[best][0] - scores[neighbour][0] <= error(scores[best][0]):  # NaN where both diverge: go on
            break
        further = _rounded(best / _FACTOR if best == rates[0] else best * _FACTOR)
        scores[further] = run(further, short)
    other = next(rate for rate in _ranked(scores, error) if rate != usual)
    final = {rate: run(rate, (budget - len(scores) * short) // 2) for rate in (usual, other)}
    gained = final[other][0] - final[usual][0]  # NaN where both diverge
    best = other if gained > 2 * error(final[other][0]) else usual
    if final[best][0] == -math.inf:
        tried = ", ".join(f"{rate:g}" for rate in sorted(scores))
        raise FloatingPointError(f"--lr auto: short runs diverge at {tried}: say a smaller --lr, or add --clip-grad 1")
    return best


def _ranked(scores: Mapping[float, Score], error: Callable[[float], float]) -> list[float]:
    """The rates, those as good as the best by their loss, then the others by their score."""
    best = max(score for score, _ in scores.values())
    least = best - error(best)

    def place(rate: float) -> tuple[bool, float]:
        score, loss = scores[rate]
        return (False, loss) if score >= least else (True, -score)

    return sorted(scores, key=place)


def _rounded(rate: float) -> float:
    """To three digits."""
    return float(f"{rate:.3g}")
