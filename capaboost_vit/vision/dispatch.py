"""Token dispatch in timm's blocks: the MLP sees the tokens that a gate selects, an adapter all of them."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..core.base import kind_of
from ..core.branch import LowRankBranch
from ..core.dispatcher import TokenDispatcher
from ..core.first_rows import why_not_by_row
from ..core.wrapper import Wrapper
from .class_row import BY_ROW


class DispatchedBlock(Wrapper):
    """`x = x + Attn(LN x); y = x + M * MLP(LN x) + adapter(x)` of timm's block, x and y (B, N, D).

    Without gradients, in evaluation, the tokens with M = 1 are gathered: of the others the MLP and its norm compute
    nothing. With a fixed capacity the same number is gathered of each example. Compiled, exported or traced without one
    all tokens are computed and masked, to the same numbers, as the number of selected tokens is no shape that a graph
    could have; and so they are where the MLP has a wrapper that looks at all tokens.

    Args:
        base: timm's `Block`.
        gate: selects tokens by the stream behind the attention.
        adapter: a branch with an activation, fed with the same stream.

    Raises TypeError for another class of block, or one in a wrapper.
    """

    adds = "token dispatch"
    base: Any

    def __init__(self, base: nn.Module, gate: TokenDispatcher, adapter: LowRankBranch) -> None:
        if type(base) is not Block:
            raise TypeError(
                f"token dispatch needs timm's plain Block, got {kind_of(base)}: leave it out of targets, or use adapter"
            )
        super().__init__(base)
        self.gate, self.adapter = gate, adapter
        self.train(base.training)

    def cannot_merge(self) -> str:
        """The MLP is left out token by token."""
        return "which tokens the MLP sees depends on the input, which no weight can express"

    def needs_all_rows(self) -> str:
        """The gate."""
        return "token dispatch there trains the rate of all tokens, in the last block too"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Further arguments are the attention's."""
        block = self.base
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x), *args, **kwargs)))
        return self.adapter.added_to(self._mlp(x), x)

    def _mlp(self, x: Tensor) -> Tensor:
        """`x + M * MLP(LN x)`."""
        if self.gate.complete:
            return x + self._update(x)
        if self.training or torch.is_grad_enabled() or not self._by_row():
            return self._masked(x)
        if self.gate.capacity is not None:
            return self._of_fixed_capacity(x)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            return self._masked(x)
        return self._gathered(x)

    def _update(self, x: Tensor) -> Tensor:
        block = self.base
        return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

    def _by_row(self) -> bool:
        block = self.base
        return not any(why_not_by_row(module, BY_ROW) for module in (block.norm2, block.mlp, block.ls2))

    def _masked(self, x: Tensor) -> Tensor:
        return x + self.gate(x).unsqueeze(-1).to(x.dtype) * self._update(x)

    def _gathered(self, x: Tensor) -> Tensor:
        hard = self.gate.selected(self.gate.logits(x))
        self.gate.note(hard)
        tokens = x.flatten(0, 1)
        rows = hard.flatten().nonzero().squeeze(1)
        update = self._update(tokens[rows].unsqueeze(0)).squeeze(0)  # (1, K, D): as tokens of one example
        return tokens.index_add(0, rows, update.to(x.dtype)).view_as(x)

    def _of_fixed_capacity(self, x: Tensor) -> Tensor:
        g = self.gate.logits(x)
        hard, rows = self.gate.selected(g), self.gate.largest(g)
        self.gate.note(hard)
        places = rows.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        update = hard.gather(1, rows).unsqueeze(-1) * self._update(x.gather(1, places))
        return x.scatter_add(1, places, update.to(x.dtype))
