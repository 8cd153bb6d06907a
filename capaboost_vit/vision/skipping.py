"""Skipped blocks of timm's ViTs: an adapter in the place of a block, or adapters beside its attention and its MLP."""

from __future__ import annotations

from typing import Any, cast

from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..core.base import kind_of
from ..core.block_adapters import BlockAdapters, NormedAdapter
from ..core.wrapper import Wrapper, sharing


class SkippableBlock(Wrapper):
    """`x = x + Attn(LN x) + A(x); y = x + MLP(LN x) + A'(x)` of timm's block, or `y = x + A"(x)` where it is skipped.

    x and y (B, N, D). Of a block that is skipped nothing is computed; its weights stay where they are.

    Args:
        base: timm's `Block`.
        adapters: by place; A is "attn", A' "mlp", A" "skip".

    Raises TypeError for another class of block, or one in a wrapper.
    """

    adds = "an adapter of a block"
    base: Any
    rows: int | None = None  # how many rows its base computes, where these are not all

    def __init__(self, base: nn.Module, adapters: BlockAdapters) -> None:
        if type(base) is not Block:
            raise TypeError(
                f"das needs timm's plain Block, got {kind_of(base)}: detach what is around it, or use adapter"
            )
        super().__init__(base)
        self.adapters = adapters
        self.train(base.training)

    def part_of(self, addition: str) -> str:
        """All is for the block."""
        return "all"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Further arguments are the attention's."""
        block, tokens = self.base, x if self.rows is None else x[:, : self.rows]
        if self.adapters.skipped:
            return self._adapter("skip").added_to(tokens, tokens)
        y = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(x), *args, **kwargs)))
        x = self._adapter("attn").added_to(y, tokens)
        return self._adapter("mlp").added_to(x + block.drop_path2(block.ls2(block.mlp(block.norm2(x)))), x)

    def _adapter(self, place: str) -> NormedAdapter:
        return cast(NormedAdapter, self.adapters[place])

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The adapters for the first rows."""
        alone = sharing(self, base=base)
        alone.rows = rows
        return alone
