"""Low-rank changes of weights of which some ranks are shared by the layers of a model: RaSA's."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from .masking import Masking
from .tied import TiedMaskedWeight


class SharedRanksUpdate(nn.Module):
    """`dW = sum_i [B, B_s]_i diag(c) [A; A_s]_i`: R private ranks, and S ranks shared by all layers of a kind.

    Each layer has its own c (R + S,). B and B_s start at zero, c at `scalings`: that of private ranks and that of
    shared ones. With masks (ours) the sum is over the views of the factors, with the same c for all of them.

    Args:
        rank: R.
        shared: S, which may be 0.
        masking: of the four factors.
        path: name of the update: the key of their masks and initial values.

    Source: RaSA (ICLR 2025).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        shared: int,
        masking: Masking,
        *,
        scalings: tuple[float, float] = (1.0, 1.0),
        path: str = "",
    ) -> None:
        super().__init__()
        self.num_branches, self.rank = masking.num_branches, rank
        self.down = TiedMaskedWeight((rank, in_features), masking, path=f"{path}.down")
        self.up = TiedMaskedWeight((out_features, rank), masking, path=f"{path}.up")
        self.shared_down = self.shared_up = None
        if shared:
            self.shared_down = TiedMaskedWeight((shared, in_features), masking, path=f"{path}.shared_down")
            self.shared_up = TiedMaskedWeight((out_features, shared), masking, path=f"{path}.shared_up")
        for down in (self.down, self.shared_down):
            if down is not None:
                down.fill_uniform(1 / math.sqrt(in_features))
        # a vector, which optimizers of timm's kind do not decay
        self.coefficients = nn.Parameter(torch.tensor([scalings[0]] * rank + [scalings[1]] * shared))

    def share(self, other: SharedRanksUpdate) -> None:
        """Makes the shared factors the same as those of `other`; masks stay separate."""
        if self.shared_down is not None and self.shared_up is not None:
            assert other.shared_down is not None
            assert other.shared_up is not None
            self.shared_down.share(other.shared_down)
            self.shared_up.share(other.shared_up)

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        private, shared = self.coefficients.split([self.rank, len(self.coefficients) - self.rank])
        delta: Tensor = self.up.joined(1) * private.repeat(self.num_branches) @ self.down.joined(0)
        if self.shared_down is None or self.shared_up is None:
            return delta
        return delta + self.shared_up.joined(1) * shared.repeat(self.num_branches) @ self.shared_down.joined(0)
