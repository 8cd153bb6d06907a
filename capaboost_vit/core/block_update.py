"""A change of a weight that is a grid of blocks, each of low rank: GraLoRA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .start_values import uniform


class BlockUpdate(nn.Module):
    """dW is a grid of k x k blocks: the one in block row j and block column n is `s B_jn A_nj`, of rank R / k.

    It has as many parameters as LoRA of rank R, and a rank of up to k R. A_nj are rows j R/k to (j + 1) R/k of the n-th
    of k matrices (R, in / k), B_jn columns n R/k to (n + 1) R/k of the j-th of k matrices (out / k, R).

    Args:
        rank: R, a multiple of k.
        k: blocks along each side; it must divide both widths.
        scaling: s.
        init_seed, path: key of A's initial values, U(-1/sqrt(in/k), 1/sqrt(in/k)), which is kaiming_uniform(a=sqrt(5));
            B starts at zero.

    Source: GraLoRA, arXiv 2505.20355; PEFT's GraloraConfig. Raises ValueError for a k that does not divide a width.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        k: int,
        *,
        scaling: float,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        assert rank % k == 0, f"rank {rank} in {k} parts"
        if in_features % k or out_features % k:
            raise ValueError(f"gralora_k must divide {in_features} and {out_features}, the widths of {path!r}, got {k}")
        width = in_features // k
        self.scaling = scaling
        self.down = nn.Parameter(uniform((k, rank, width), width**-0.5, init_seed, f"{path}.init"))
        self.up = nn.Parameter(torch.zeros(k, out_features // k, rank))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        k = len(self.down)
        down = self.down.unflatten(1, (k, -1))  # (n, j, R/k, in/k)
        up = self.scaling * self.up.unflatten(2, (k, -1))  # (j, out/k, n, R/k)
        return torch.einsum("jons,njsi->joni", up, down).flatten(0, 1).flatten(1)

    def extra_repr(self) -> str:
        k, rank, width = self.down.shape
        return f"{k * width} -> {k * self.up.shape[1]}, rank={rank}, {k} x {k} blocks"
