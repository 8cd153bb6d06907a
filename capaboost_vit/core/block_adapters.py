"""Adapters of a whole transformer block: beside its attention and its MLP, or in the place of both."""

from __future__ import annotations

from torch import Tensor, nn

from .base import operand
from .branch import LowRankBranch


class NormedAdapter(nn.Module):
    """`A(x) = up act(down LN(x) + a) + b`, x (..., D): a branch behind a layer norm of its own, which is trained too.

    Source: DAS, arXiv 2309.01479, whose layer norm is torch's default, too.
    """

    def __init__(self, branch: LowRankBranch) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(branch.in_features)
        self.branch = branch

    @property
    def kept_share(self) -> float:
        """That of the branch."""
        return self.branch.kept_share

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + A(x)` in the dtype of y."""
        return self.branch.added_to(y, self.norm(operand(x, self.norm.weight))).to(y.dtype)


class BlockAdapters(nn.ModuleDict):
    """The adapters of a block, by place: beside "attn" and "mlp"; where "skip" is there, the block is not computed."""

    @property
    def skipped(self) -> bool:
        """Whether an adapter stands in the place of the block."""
        return "skip" in self
