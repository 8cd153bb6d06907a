"""Rescaling: the factor that makes a masked update as large as the plain one of the same factors."""

from __future__ import annotations

import math

from ..io.options import check_value
from .masking import Masking

RESCALES = ("mean", "norm")


def rescaling(rescale: str | None, masking: Masking) -> float:
    """`1 / E[C]` for "mean", `1 / sqrt(E[C^2])` for "norm", 1 for None, with `C = sum_i MB_i MA_i`.

    C is the factor that the masks give to the product `b a` of an entry of B and one of A: `dW = sum_r C b a` over the
    rank. The masks of B are independent of those of A. With m the mean entry of a mask, and `q_l` the mean product of
    the entries of masks i and i + l,

    - mean: `E[C] = d m^2`. In expectation over the masks dW is `d m^2 BA` for any factors, and BA after rescaling.
    - norm: `E[C^2] = d sum_l q_l^2`, l = 0 .. d - 1. `E ||dW||_F^2 = E[C^2] E ||BA||_F^2` if the entries of the factors
      are independent with mean zero, as terms of different r are then uncorrelated; at rank 1 for any factors.

    | pattern | m | q_0 | q_l | E[C] | E[C^2] |
    |---|---|---|---|---|---|
    | random, n:m | s | s | s^2 | d s^2 | d s^2 + d (d - 1) s^4 |
    | complementary | s | s | (s - l/d)^+ + (s - 1 + l/d)^+ | d s^2 | 1/d at s = 1/d |
    | sign | 0 | 1 | 0 | 0 | d |
    | density 1 | 1 | 1 | 1 | d | d^2 |

    Masks of weights with few entries differ from this by rounding. Source: our own derivation.

    Raises ValueError for another word; for "mean" with sign masks, whose mean is zero; and with coefficients, as the
    update is then the plain one at first.
    """
    d, s, pattern = masking.num_branches, masking.kept, masking.pattern
    if rescale is None:
        return 1.0
    check_value("rescale", rescale, str, {"choices": RESCALES})
    if masking.coefficients is not None:
        raise ValueError(f"rescale={rescale!r} has nothing to rescale beside coefficients, which start at zero")
    if rescale == "norm":
        return 1 / math.sqrt(d * sum(_overlap(lag, d, s, pattern) ** 2 for lag in range(d)))
    if pattern == "sign":
        raise ValueError(
            "rescale='mean' has nothing to divide by with sign masks, whose mean is zero: say rescale='norm'"
        )
    return 1 / (d * s**2)


def _overlap(lag: int, d: int, s: float, pattern: str) -> float:
    """q_lag, the mean product of the entries of two masks."""
    if pattern == "sign":
        return 1.0 if lag == 0 else 0.0
    if pattern == "complementary":  # windows of length s on a circle of length 1
        return max(0.0, s - lag / d) + (max(0.0, s - 1 + lag / d) if lag else 0.0)
    return s if lag == 0 else s**2
