"""A symmetric low-rank map of the input of linear layers, whose projection other layers share: ARC's."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .masking import Masking
from .tied import TiedMaskedWeight


class SymmetricAdapter(nn.Module):
    """`x + sum_i (U * M_i) diag(s) (U * M_i)^T x + b`: one projection U (D, h) in both directions, so a symmetric map.

    U is stored as its transpose, `down`, and starts from Xavier's uniform; s (h,) and b (D,) start at zero. U and U^T
    have the same masks, so the map stays symmetric.

    Args:
        features: D.
        bottleneck: h.
        masking: of U.
        bias: whether there is b.
        dropout: on the hidden units, in training.
        path: name of the adapter: the key of its masks and initial values.

    Source: ARC (NeurIPS 2023), arXiv 2310.06234.
    """

    def __init__(
        self,
        features: int,
        bottleneck: int,
        masking: Masking,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.dropout, self.num_branches = dropout, masking.num_branches
        self.down = TiedMaskedWeight((bottleneck, features), masking, path=f"{path}.down")
        self.scale = nn.Parameter(torch.zeros(bottleneck))
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.down.fill_uniform(math.sqrt(6 / (features + bottleneck)))

    def share(self, other: SymmetricAdapter) -> None:
        """Makes U the same Parameter as that of `other`; masks, s and b stay separate."""
        self.down.share(other.down)

    def factors(self) -> tuple[Tensor, Tensor]:
        """The views of U^T below each other (K*h, D), and of U diag(s) side by side (D, K*h)."""
        down = self.down.joined(0)
        return down, down.t() * self.scale.repeat(self.num_branches)

    def biases(self) -> tuple[None, Tensor | None]:
        """No a; b."""
        return None, self.bias
