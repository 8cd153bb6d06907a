"""A sparse change of a weight: at the entries of the smallest magnitude."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SparseUpdate(nn.Module):
    """`dW` is zero but for k entries, which are learned, zero at first: those where |W| is smallest, once `choose` ran.

    Which these are is a function of W alone (the first of equals, row by row). Their places are stored beside the
    values, so that a file means the same entries whatever was merged into the base in between.

    Args:
        count: k.
    """

    positions: Tensor

    def __init__(self, in_features: int, out_features: int, count: int) -> None:
        super().__init__()
        self.shape = (out_features, in_features)
        self.register_buffer("positions", torch.arange(count, dtype=torch.int32))
        self.values = nn.Parameter(torch.zeros(count))

    def choose(self, weight: Tensor) -> None:
        """Chooses the entries by W, (out, in)."""
        order = weight.detach().abs().flatten().argsort(stable=True)
        self.positions.copy_(order[: len(self.positions)].sort().values)

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in the dtype of the values; the weight that is changed plays no part."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.scatter(0, self.positions.long(), self.values).view(self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape[1]} -> {self.shape[0]}, entries={len(self.values)}"
