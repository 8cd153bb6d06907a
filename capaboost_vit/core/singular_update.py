"""A change of a weight between its own singular vectors: that of source-free adaptation."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class SingularUpdate(nn.Module):
    """`dW = U G V^T` with the first R singular vectors of W, U (out, R) and V (in, R), frozen, and a trained G (R, R).

    G starts at zero, so dW does, too. U and V are stored with it: the signs, and the order of equal singular values,
    depend on the library, so recomputed ones could belong to another G.

    Args:
        weight: W, (out, in); on the meta device U and V are only shapes.
        rank: R.

    Raises ValueError for a rank above the smaller side of W.
    """

    left: Tensor
    right: Tensor

    def __init__(self, weight: Tensor, rank: int) -> None:
        super().__init__()
        if rank > min(weight.shape):
            raise ValueError(
                f"rank {rank} is above the smaller side of a weight of {' x '.join(map(str, weight.shape))}"
            )
        wide = torch.promote_types(weight.dtype, torch.float32)
        u, _, vh = torch.linalg.svd(weight.detach().to(wide), full_matrices=False)
        self.register_buffer("left", u[:, :rank].contiguous())
        self.register_buffer("right", vh[:rank].contiguous())
        self.core = nn.Parameter(torch.zeros(rank, rank))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part any more."""
        core = self.core
        return self.left.to(core.dtype) @ core @ self.right.to(core.dtype)  # a cast of parameters leaves buffers

    def extra_repr(self) -> str:
        (out_features, rank), (_, in_features) = self.left.shape, self.right.shape
        return f"{in_features} -> {rank} -> {out_features}"
