"""Modules that sit in the slot of the frozen module that they contain (`base`) and add a branch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..io.options import check_value
from .branch import LowRankBranch
from .hypernetwork import GeneratedAdapter
from .virtual_tokens import VirtualTokens
from .wrapper import NoShortCut, Wrapper, sharing


class Adapted(Wrapper):
    """`y = base(x) + branch(x)` (source "input", parallel) or `z = base(x); y = z + branch(z)` ("output", sequential).

    With "residual" the base is the last module of a sub-layer, `base(h, x)`, which adds the sub-layer's input x to its
    result, as `output` in BERT's layers: `y = base(h, x + branch(x))` is then parallel to the whole sub-layer, before
    its norm.

    The branch acts on the last dimension, so the base may take (B, N, D) tokens or (B, H, W, D) maps.

    Args:
        base: the sub-layer, such as a block's MLP; only it receives further arguments of a call.
        branch: a `LowRankBranch`, usually an adapter with an activation; or another module with a method `added_to`.
        source: the input of the branch.
    """

    adds = "an adapter"
    rows: int | None = None  # how many rows of the input its base computes, where these are not all

    def __init__(self, base: nn.Module, branch: LowRankBranch | GeneratedAdapter, source: str = "input") -> None:
        super().__init__(base)
        check_value("source", source, str, {"choices": ("input", "output", "residual")})
        self.branch: Any = branch
        self.source = source
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """Not there: an adapter is no change of a weight, so a reader of the base's weight must not get it silently."""
        if not hasattr(self.base, "weight"):
            raise AttributeError(f"{type(self.base).__name__!r} object has no attribute 'weight'")
        raise TypeError("this layer carries an adapter, which its weight cannot express: call the layer")

    def gate_widths(self) -> dict[str, int]:
        """The gate looks at what the branch is fed with."""
        return {"branch": self.branch.in_features}

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.source == "residual":
            residual, *others = args
            residual = self._computed(residual)
            return self.base(x, self.branch.added_to(residual, residual), *others, **kwargs)
        y = self.base(x, *args, **kwargs)
        if self.source == "output":
            return self.branch.added_to(y, y)
        return self.branch.added_to(y, self._computed(x))

    def _computed(self, x: Tensor) -> Tensor:
        return x if self.rows is None else x[:, : self.rows]

    def by_row(self) -> bool:
        """Yes, but for a gate, which looks at all of them."""
        return not self.gated()

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The branch for the first rows."""
        if not self.by_row():
            raise NoShortCut(self.needs_all_rows())
        alone = sharing(self, base=base)
        alone.rows = rows
        return alone


class Prompted(Wrapper):
    """A transformer block with P learned tokens after its own: `block([x; P])`, tokens (B, N, D).

    Args:
        base: the block, without positions of tokens (no rotary or relative positions).
        tokens: the prompt, or None for a block that passes on the prompt of an earlier one.
        dropped: number of tokens removed from the end of the output: P in each block of a deep prompt (VPT-deep, a
            prompt for each block), and only in the last block of a shallow one.

    Deviation from VPT: prompts are placed after the patch tokens, not after the class token (equivalent for these
    blocks). Raises ValueError for a call with an attention mask or is_causal, which do not include the prompt.
    """

    adds = "a prompt"

    def __init__(self, base: nn.Module, tokens: VirtualTokens | None, dropped: int) -> None:
        super().__init__(base)
        self.tokens = tokens
        self.dropped = dropped
        self.train(base.training)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if any(value is True or isinstance(value, Tensor) for value in (*args, *kwargs.values())):
            raise ValueError("prompts do not work with an attention mask or causal attention, which miss the prompt")
        if self.tokens is not None:
            x = torch.cat([x, self.tokens.for_batch(x)], dim=1)
        y = self.base(x, *args, **kwargs)
        return y[:, : y.shape[1] - self.dropped]

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The prompt goes in, and the base's first rows have none of it to be taken off."""
        alone = sharing(self, base=base)
        alone.dropped = 0
        return alone
