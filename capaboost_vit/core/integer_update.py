"""A weight of integers whose low-rank update is made of integers, too: IntLoRA's."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .branch import LowRankBranch
from .masking import Masking
from .start_values import laplace

_CLIPS = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)  # of the largest factor, in units of s
_BELOW, _POWERS = 4, 8  # a shift is 2^0 to 2^7, and s itself 2^4


class IntegerUpdate(nn.Module):
    """`W' = c (F * Q)` for integers Q of the base weight and F of the update, with one step size c for each row.

        Q = 2 floor((W - R) / 2s) + 1, odd and so never zero, as a factor could not change a zero,
        F = round(f / c), f = s + (R + dW_low) / Q, since f Q = s Q + R + dW_low, about W + dW_low.

    `factor` is the kind of F. "mul": integers of n = `factor_bits` bits, c = s exp(g) / (2^(n-1) - 1) with a learned g
    for each row, which starts where W' is nearest to W. "shift": signed powers of two from 2^0 to 2^7, with c =
    2^(round(log2 s) - 4), which is not learned. Gradients pass through the rounding (straight-through), except for
    entries of "mul" beyond the largest integer.

    R is fixed, so that the factors differ from each other before training: Laplace(0, 0.5) times (max |W| / max
    |R|)^1.5 of the row. It is a function of (init_seed, path), and is not stored.

    Args:
        weight: W, (out, in), from which g is initialised.
        rank: of dW_low.
        masking: of A and B.
        bits: of Q.
        factor: "mul" or "shift".
        factor_bits: of F, for "mul"; None: `bits`.
        path: name of the update in the model: the key of its masks, initial values and R.

    Source: IntLoRA (ICML 2025), arXiv 2410.21759; for the deviations see `Intlora`.
    """

    auxiliary: Tensor

    def __init__(
        self,
        weight: Tensor,
        rank: int,
        masking: Masking,
        *,
        bits: int = 8,
        factor: str = "mul",
        factor_bits: int | None = None,
        path: str = "",
    ) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.levels, self.largest = 2**bits - 1, 2 ** ((factor_bits or bits) - 1) - 1
        self.factors = LowRankBranch(columns, rows, rank, masking, path=path)
        auxiliary = laplace((rows, columns), 0.5, masking.init_seed, f"{path}.auxiliary")
        if not auxiliary.is_meta:
            auxiliary = auxiliary.to(weight.device)
        self.register_buffer("auxiliary", auxiliary, persistent=False)
        self.log_clip = nn.Parameter(self._nearest(weight)) if factor == "mul" else None

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """(F * Q (out, in), c (out, 1)) for W: integers as floating-point numbers, through which gradients pass.

        They are exact: up to 2^15 for factors of 8 bits and shifts.
        """
        auxiliary, half_step, codes = self._base(weight)
        change = self.factors.delta_weight().to(codes.dtype)
        factors = half_step + (auxiliary + change) / codes
        if self.log_clip is None:
            step = torch.exp2(half_step.log2().round() - _BELOW)
            return _passing(_power_of_two(factors / step), factors / step) * codes, step
        step = half_step * self.log_clip.to(codes.dtype).exp().unsqueeze(1) / self.largest
        scaled = (factors / step).clamp(-self.largest, self.largest)
        return _passing(scaled.round(), scaled) * codes, step

    def forward(self, weight: Tensor) -> Tensor:
        """W', (out, in), in at least float32."""
        integers, step = self.integers(weight)
        return integers * step

    def _base(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """R (out, in), s (out, 1) and Q (out, in)."""
        weight = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
        widest = weight.abs().amax(1, keepdim=True) / self.auxiliary.to(weight.dtype).abs().amax(1, keepdim=True)
        auxiliary = self.auxiliary.to(weight.dtype) * widest**1.5
        rest = weight - auxiliary
        half_step = (rest.abs().amax(1, keepdim=True) / self.levels).clamp_min(torch.finfo(torch.float32).tiny)
        codes = 2 * (rest / (2 * half_step)).floor() + 1
        return auxiliary, half_step, codes.clamp(-self.levels, self.levels)

    @torch.no_grad()
    def _nearest(self, weight: Tensor) -> Tensor:
        """The logarithm of the clip of each row, (out,), whose W' is nearest to W before training."""
        if self.auxiliary.is_meta:  # a shape alone
            return torch.empty(len(weight))
        auxiliary, half_step, codes = self._base(weight)
        factors, errors = half_step + auxiliary / codes, []
        for clip in _CLIPS:
            step = half_step * clip / self.largest
            rounded = (factors / step).clamp(-self.largest, self.largest).round() * step
            errors.append((codes * (rounded - factors)).square().sum(1))
        return torch.tensor(_CLIPS, device=codes.device).log()[torch.stack(errors).argmin(0)]

    def extra_repr(self) -> str:
        return f"{self.levels + 1} levels, " + ("shift" if self.log_clip is None else f"mul up to {self.largest}")


def _power_of_two(x: Tensor) -> Tensor:
    """The power from 2^0 to 2^7 whose exponent is nearest, with the sign of x; that of zero is 1."""
    exponent = x.abs().log2().round().clamp(0, _POWERS - 1)
    return torch.where(x < 0, -1.0, 1.0).to(x.dtype) * torch.exp2(exponent)


def _passing(rounded: Tensor, x: Tensor) -> Tensor:
    """`rounded`, to the bit, with the gradient of x (straight-through)."""
    return rounded.detach() + (x - x.detach())
