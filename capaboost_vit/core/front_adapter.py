"""A linear bottleneck of the input of linear layers, two convolutions of kernel 1: RepAdapter's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .masking import Masking
from .tied import TiedMaskedWeight


class FrontAdapter(nn.Module):
    """`x + s * [ sum_i (B * MB_i) ((A * MA_i) x + a) + b ]`, without an activation; B is block-diagonal.

    A (h, D) reads all channels; B, stored as (D, h / groups), maps each group of hidden units to its group of channels:
    two convolutions of kernel size 1, the second with groups. B and the biases start at zero, A from Xavier's uniform.

    Args:
        features: D.
        bottleneck: h.
        groups: a divisor of both.
        masking: of A and B.
        scaling: s.
        bias: whether there are a and b.
        dropout: on the hidden units, in training.
        path: name of the adapter: the key of its masks and initial values.

    Source: RepAdapter, arXiv 2302.08106. Raises ValueError for groups that do not divide the bottleneck or the
    features.
    """

    def __init__(
        self,
        features: int,
        bottleneck: int,
        groups: int,
        masking: Masking,
        *,
        scaling: float = 1.0,
        bias: bool = True,
        dropout: float = 0.0,
        path: str = "",
    ) -> None:
        super().__init__()
        for what, number in (("the bottleneck", bottleneck), ("the width of what it is in front of", features)):
            if number % groups:
                raise ValueError(f"groups={groups} must divide {what}, which is {number}: say groups=1, or another")
        self.groups, self.scaling, self.dropout, self.num_branches = groups, scaling, dropout, masking.num_branches
        self.down = TiedMaskedWeight((bottleneck, features), masking, path=f"{path}.down")
        self.up = TiedMaskedWeight((features, bottleneck // groups), masking, path=f"{path}.up")
        self.down_bias = nn.Parameter(torch.zeros(bottleneck)) if bias else None
        self.up_bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.down.fill_uniform(math.sqrt(6 / (features + bottleneck)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A_cat (K*h, D) and the scaled B_cat (D, K*h)."""
        views = [torch.block_diag(*view.chunk(self.groups)) for view in self.up()]
        return self.down.joined(0), self.scaling * torch.cat(views, 1)

    def biases(self) -> tuple[Tensor | None, Tensor | None]:
        """a, once for each view, and the scaled b."""
        if self.down_bias is None or self.up_bias is None:
            return None, None
        return self.down_bias.repeat(self.num_branches), self.scaling * self.up_bias

    def extra_repr(self) -> str:
        return f"groups={self.groups}, scaling={self.scaling:g}"
