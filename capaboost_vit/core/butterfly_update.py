"""A rotation of a weight by products of sparse orthogonal matrices, and a scale for each row: BOFT."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class ButterflyUpdate(nn.Module):
    """`W + dW = diag(s) W (Q_m ... Q_1)^T`, with orthogonal factors Q of blocks b x b of inputs.

    A block is the Cayley transform `(I - S)(I + S)^-1` of a skew-symmetric `S = (R - R^T) / 2`. The blocks of Q_1 are b
    neighbours. For Q_{i+1} each run of b 2^i inputs is cut into pieces of b / 2, and a block couples piece k with piece
    k + 2^i, k < 2^i. With m = log2(in / b) + 1 factors all inputs are coupled. R starts at zero, s at one.

    Args:
        block_size: b.
        num_factors: m; b 2^(m-1) must divide the number of inputs, and b be even if m > 1.

    Source: BOFT, arXiv 2311.06243; PEFT's BOFTConfig.
    """

    def __init__(self, in_features: int, out_features: int, block_size: int, num_factors: int = 1) -> None:
        super().__init__()
        assert in_features % (block_size * 2 ** (num_factors - 1)) == 0, f"{in_features} inputs"
        assert num_factors == 1 or block_size % 2 == 0, f"halves of {block_size}"
        self.rotations = nn.Parameter(torch.zeros(num_factors, in_features // block_size, block_size, block_size))  # R
        self.scale = nn.Parameter(torch.ones(out_features))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in), in at least float32. Raises what `weight` raises."""
        wide = torch.promote_types(self.rotations.dtype, torch.float32)
        w = weight().to(wide)
        r, b = self.rotations.to(wide), self.rotations.shape[-1]
        skew = (r - r.mT) / 2
        identity = torch.eye(b, dtype=wide, device=r.device)
        blocks = torch.linalg.solve(identity + skew, identity - skew, left=False)  # (m, in / b, b, b)
        rotated = w
        for i, factor in enumerate(blocks):
            x = rotated
            if i:
                x = x.reshape(len(w), -1, 2, 2**i, b // 2).transpose(2, 3)
            x = torch.einsum("onb,ncb->onc", x.reshape(len(w), -1, b), factor)
            if i:
                x = x.reshape(len(w), -1, 2**i, 2, b // 2).transpose(2, 3)
            rotated = x.reshape(w.shape)
        return self.scale.unsqueeze(1) * rotated - w

    def extra_repr(self) -> str:
        factors, blocks, size, _ = self.rotations.shape
        return f"{factors} factors of {blocks} blocks of {size}"
