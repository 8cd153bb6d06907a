"""Adapters of a whole transformer block: beside its attention and its MLP, or in the place of both."""

from __future__ import annotations

from torch import Tensor, nn

from .base import operand
from .branch import LowRankBranch


class NormedAdapter(nn.Module):
    """`A(x) = up act(down LN(x) + a) + b`, x (..., D): a branch after its own layer norm, which is trained, too.

    Source: DAS, arXiv 2309.01479; the layer norm has torch's defaults, as there.
    """

    def __init__(self, branch: LowRankBranch) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(branch.in_features)
        self.branch = branch

    @property
    def kept_share(self) -> float:
        """The `kept_share` of the branch."""
        return self.branch.kept_share

    def added_to(self, y: Tensor, x: Tensor) -> Tensor:
        """`y + A(x)` in the dtype of y."""
        return self.branch.added_to(y, self.norm(operand(x, self.norm.weight))).to(y.dtype)


class BlockAdapters(nn.ModuleDict):
    """The adapters of a block: "attn" and "mlp" are parallel to these; with "skip" the block is not computed."""

    @property
    def skipped(self) -> bool:
        """Whether the block is replaced by an adapter."""
        return "skip" in self
