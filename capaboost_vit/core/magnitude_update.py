"""A change of a weight in direction and magnitude: DoRA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .branch import LowRankBranch

_EPS = 1e-12  # as in F.normalize: a row of zeros stays one


class MagnitudeUpdate(nn.Module):
    """`W + dW = m (W + dW_low) / |W + dW_low|` row by row, for the dW_low of a low-rank branch.

    The magnitudes m (out,) start as |W|, so that dW is zero at step 0. The norm in the denominator is a constant of the
    backward pass.

    Args:
        factors: the low-rank branch.
        weight: W at the start, (out, in).

    Source: DoRA, arXiv 2402.09353; the constant norm, its section 4.3.
    """

    def __init__(self, factors: LowRankBranch, weight: Tensor) -> None:
        super().__init__()
        self.factors = factors
        wide = torch.promote_types(weight.dtype, torch.float32)
        self.magnitude = nn.Parameter(_norm(weight.detach().to(wide)))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32 if the factors are. Raises what `weight` and `delta_weight` raise."""
        w = weight().to(self.magnitude.dtype)
        changed = w + self.factors.delta_weight()
        return (self.magnitude / _norm(changed.detach())).unsqueeze(1) * changed - w


def _norm(weight: Tensor) -> Tensor:
    """|W| of each row, (out,)."""
    return weight.norm(dim=1).clamp(min=_EPS)
