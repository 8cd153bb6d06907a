"""A sparse change of a weight: at the entries of the smallest magnitude."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SparseUpdate(nn.Module):
    """`dW` is zero except for the k entries with the smallest |W|, which are learned and start at zero.

    The entries depend only on W (of equal ones the first, row by row). Their positions are stored with the values, so
    that a file always means the same entries, even if something was merged into the base.

    Args:
        weight: W, (out, in).
        count: k.
    """

    positions: Tensor

    def __init__(self, weight: Tensor, count: int) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        order = weight.detach().abs().flatten().argsort(stable=True)
        self.register_buffer("positions", order[:count].sort().values.to(torch.int32))
        self.values = nn.Parameter(torch.zeros(count))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in the dtype of the values; the weight that is changed plays no part."""
        flat = self.values.new_zeros(self.shape[0] * self.shape[1])
        return flat.scatter(0, self.positions.long(), self.values).view(self.shape)

    def extra_repr(self) -> str:
        return f"{self.shape[1]} -> {self.shape[0]}, entries={len(self.values)}"
