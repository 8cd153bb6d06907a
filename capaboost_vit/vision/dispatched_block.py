"""Token dispatch in timm's blocks: MLP or attention see the tokens that a gate selects, an adapter all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ..core.base import kind_of
from ..core.branch import LowRankBranch
from ..core.dispatcher import TokenDispatcher
from ..core.first_rows import why_not_by_row
from ..core.wrapper import Wrapper
from .class_row import BY_ROW

Update = Callable[..., Tensor]  # of tokens (B, N, D), and which of them are there, (B, N) bool, or None


class DispatchedBlock(Wrapper):
    """`x = x + M_a * Attn(LN x); y = x + M * MLP(LN x) + adapter(x)` of timm's block, x and y (B, N, D).

    M (B, N) is 0 or 1 and that of the gate "mlp", M_a of "attn"; a gate that is not there is 1 everywhere. With M_a the
    attention is that of the selected tokens among themselves. The gate "layer" selects for both at once, and is alone:
    `y = x + M * (block(x) - x) + adapter(x)`.

    Without gradients, in evaluation, the selected tokens are gathered, and nothing is computed for the others: of a
    whole batch for the MLP, of each example for the attention, where the others' gaps are filled up to the longest.
    With a fixed capacity the same number is gathered of each example. Compiled, exported or traced without one, all
    tokens are computed and masked, to the same numbers, as the number of selected tokens is no shape that a graph could
    have; and so they are where a wrapper inside looks at all tokens.

    Args:
        base: timm's `Block`.
        gates: by name, fed with the stream that their sub-layer is fed with, before its norm.
        adapter: a branch with an activation, fed with the stream in front of the MLP, or of the layer.

    Raises TypeError for another class of block, or one in a wrapper; in a call ValueError for an attention mask where
    tokens are selected for the attention.
    """

    adds = "token dispatch"
    base: Any

    def __init__(self, base: nn.Module, gates: Mapping[str, TokenDispatcher], adapter: LowRankBranch) -> None:
        if type(base) is not Block:
            raise TypeError(
                f"token dispatch needs timm's plain Block, got {kind_of(base)}: leave it out of targets, or use adapter"
            )
        super().__init__(base)
        self.gates, self.adapter = nn.ModuleDict(gates), adapter
        self.train(base.training)

    def part_of(self, addition: str) -> str:
        """All is for the block."""
        return "all"

    def cannot_merge(self) -> str:
        """Something is left out token by token."""
        return "which tokens are dispatched depends on the input, which no weight can express"

    def needs_all_rows(self) -> str:
        """The gate."""
        return "token dispatch there trains the rate of all tokens, in the last block too"

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Further arguments are the attention's."""

        def attention(x: Tensor, there: Tensor | None = None) -> Tensor:
            if there is None:
                y = block.attn(block.norm1(x), *args, **kwargs)
            elif any(value is True or isinstance(value, Tensor) for value in (*args, *kwargs.values())):
                raise ValueError("dispatch of attention takes no attention mask, nor causal attention: use 'mlp'")
            else:
                y = block.attn(block.norm1(x), attn_mask=there[:, None, None, :])
            return block.drop_path1(block.ls1(y))

        def mlp(x: Tensor, there: Tensor | None = None) -> Tensor:
            return block.drop_path2(block.ls2(block.mlp(block.norm2(x))))

        def layer(x: Tensor, there: Tensor | None = None) -> Tensor:
            y = attention(x, there)
            return y + mlp(x + y)

        block = self.base
        if "layer" in self.gates:
            return self.adapter.added_to(self._dispatched("layer", layer, x), x)
        x = self._dispatched("attn", attention, x)
        return self.adapter.added_to(self._dispatched("mlp", mlp, x), x)

    def _dispatched(self, name: str, update: Update, x: Tensor) -> Tensor:
        """`x + M * update(x)` with the gate of this name."""
        gate = cast(TokenDispatcher, self.gates[name]) if name in self.gates else None
        if gate is None or gate.complete:
            return x + update(x)
        in_graph = torch.compiler.is_compiling() or torch.jit.is_tracing()
        fixed = gate.capacity is not None
        if self.training or torch.is_grad_enabled() or (in_graph and not fixed) or not self._by_row(name):
            mask = gate(x)
            return x + mask.unsqueeze(-1).to(x.dtype) * update(x, mask.detach() > 0)
        g = gate.logits(x)
        selected = gate.selected(g)
        gate.note(selected)
        if fixed:
            return _of_each_example(update, x, selected, gate.largest(g))
        if name == "mlp":
            return _of_the_batch(update, x, selected)
        longest = int(selected.sum(1).max())
        return _of_each_example(update, x, selected, selected.int().argsort(1, descending=True)[:, :longest])

    def _by_row(self, name: str) -> bool:
        """Whether what a gate is for makes the same of a token wherever it stands, but for the attention itself."""
        block = self.base
        modules = [block.norm2, block.mlp, block.ls2] if name != "attn" else []
        if name != "mlp":
            if isinstance(block.attn, Wrapper):
                return False
            modules += [block.norm1, *block.attn.children(), block.ls1]
        return not any(why_not_by_row(module, BY_ROW) for module in modules)


def _of_the_batch(update: Update, x: Tensor, selected: Tensor) -> Tensor:
    """The selected tokens of all examples, as those of one: what acts on each alone."""
    tokens = x.flatten(0, 1)
    rows = selected.flatten().nonzero().squeeze(1)
    return tokens.index_add(0, rows, update(tokens[rows].unsqueeze(0)).squeeze(0).to(x.dtype)).view_as(x)


def _of_each_example(update: Update, x: Tensor, selected: Tensor, rows: Tensor) -> Tensor:
    """The tokens at `rows` (B, K) of each example; those of them that are not selected are left as they are."""
    there = selected.gather(1, rows)
    places = rows.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    y = there.unsqueeze(-1) * update(x.gather(1, places), there)
    return x.scatter_add(1, places, y.to(x.dtype))
