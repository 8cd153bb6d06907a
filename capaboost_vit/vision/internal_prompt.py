"""Internal prompts in timm's ViTs: what an adapter makes of all tokens becomes a token more for the next blocks."""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.nn import functional as F

from ..core.adapted import Adapted
from ..core.base import kind_of
from ..core.wrapper import Wrapper


class InternallyPrompted(Wrapper):
    """timm's block with one more token in its output, `p = mean over tokens of gelu(A(z))`: (B, N, D) to (B, N + 1, D).

    A is the adapter beside its MLP and z what that is fed with, so it adds no parameter.

    Args:
        base: timm's `Block`, whose MLP carries a parallel adapter.
        behind: how many tokens stand in front of p: the class token, and registers.
        dropped: where the prompts end, how many tokens to take off there, and none is put in; None: p is put in.

    Raises TypeError for another class of block, or one in a wrapper, or without such an adapter.

    Source: DAPT, arXiv 2403.01439, without its scale and shift of p, and without p in the head's input.
    """

    adds = "an internal prompt"
    base: Any

    def __init__(self, base: nn.Module, *, behind: int, dropped: int | None) -> None:
        if type(base) is not Block or not isinstance(base.mlp, Adapted) or base.mlp.source != "input":
            raise TypeError(
                f"internal_prompt needs a parallel adapter at the MLP of timm's plain Block, got {kind_of(base)}: "
                "leave it out, or take placement='parallel' and targets='mlp' on a model without other wrappers"
            )
        super().__init__(base)
        self.behind, self.dropped = behind, dropped
        self.train(base.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Raises ValueError for an attention mask or is_causal, which would not reach the prompts."""
        if any(value is True or isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            raise ValueError("internal prompts do not work with an attention mask or causal attention")
        block = self.base
        if self.dropped is not None:
            y = block(x)
            return torch.cat([y[:, : self.behind], y[:, self.behind + self.dropped :]], 1)
        x = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
        z = block.norm2(x)
        update = block.mlp.branch(z)
        hidden = block.mlp.base(z)
        y = x + block.drop_path2(block.ls2((hidden + update).to(hidden.dtype)))
        prompt = F.gelu(update).mean(1, keepdim=True).to(y.dtype)
        return torch.cat([y[:, : self.behind], prompt, y[:, self.behind :]], 1)
