"""A linear bottleneck in front of frozen linear layers, which merges into their weights: RepAdapter's."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import dense, operand
from .first_rows import outputs, splits
from .masking import Masking
from .products import without_autocast
from .tied import TiedMaskedWeight
from .wrapper import Wrapper, merged_weights, sharing


class FrontAdapter(nn.Module):
    """`x + s * [ sum_i (B * MB_i) ((A * MA_i) x + a) + b ]`, without an activation; B is block-diagonal.

    A (h, D) sees all channels; B, stored as (D, h / groups), gives each group of channels that of its hidden units: two
    convolutions of kernel 1, of which the second has groups. B and the biases start at zero, A from Xavier's
    uniform.

    Args:
        features: D. bottleneck: h. groups: divides both. scaling: s.
        masking: of A and B. path: names the adapter: the key of its masks and start values.
        bias: whether there are a and b. dropout: on the hidden units, in training.

    Source: RepAdapter, arXiv 2302.08106.
    """

    def __init__(
        self,
        features: int,
        bottleneck: int,
        groups: int,
        masking: Masking,
        *,
        scaling: float = 1.0,
        bias: bool = True,
        dropout: float = 0.0,
        path: str = "",
    ) -> None:
        super().__init__()
        for what, number in (("the bottleneck", bottleneck), ("the width of what it is in front of", features)):
            if number % groups:
                raise ValueError(f"groups={groups} must divide {what}, which is {number}: say groups=1, or another")
        self.groups, self.scaling, self.dropout, self.num_branches = groups, scaling, dropout, masking.num_branches
        self.down = TiedMaskedWeight((bottleneck, features), masking, path=f"{path}.down")
        self.up = TiedMaskedWeight((features, bottleneck // groups), masking, path=f"{path}.up")
        self.down_bias = nn.Parameter(torch.zeros(bottleneck)) if bias else None
        self.up_bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.down.fill_uniform(math.sqrt(6 / (features + bottleneck)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """A_cat (K*h, D) and the scaled B_cat (D, K*h)."""
        views = [torch.block_diag(*view.chunk(self.groups)) for view in self.up()]
        return self.down.joined(0), self.scaling * torch.cat(views, 1)

    def draws(self) -> bool:
        """Whether a call draws random numbers."""
        return self.training and self.dropout > 0

    def shift(self) -> Tensor | None:
        """What it makes of zero, (D,)."""
        if self.down_bias is None or self.up_bias is None:
            return None
        return self.factors()[1] @ self.down_bias.repeat(self.num_branches) + self.scaling * self.up_bias

    def forward(self, x: Tensor) -> Tensor:
        """Maps (..., D) to (..., D), in the dtype of x."""
        x_there = operand(x, self.down.weight)
        down, up = self.factors()
        a = None if self.down_bias is None else self.down_bias.repeat(self.num_branches)
        b = None if self.up_bias is None else self.scaling * self.up_bias
        hidden = F.dropout(F.linear(x_there, down, a), self.dropout, self.training)
        return (x_there + F.linear(hidden, up, b)).to(x.dtype)

    def extra_repr(self) -> str:
        return f"groups={self.groups}, scaling={self.scaling:g}"


class Fronted(Wrapper):
    """`y = base(adapter(x))` of a linear layer: `W (1 + S) x + W t + c` for an adapter that makes `x + S x + t` of x.

    `weight` and `bias` are those of the layer that computes the same.

    Args:
        base: the linear layer, in wrappers or not.
        adapter: may be that of several layers that are given the same input.
        part: of a fused layer, under whose role summaries count it.
    """

    adds = "an adapter in front"
    base: Any

    def __init__(self, base: nn.Module, adapter: FrontAdapter, part: str = "all") -> None:
        super().__init__(base)
        self.adapter, self.part = adapter, part
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """W (1 + S), (out, in). An error in here is never an AttributeError, which nn.Module would swallow.

        Raises ValueError in training with dropout, which cannot be had from a weight.
        """
        if self.adapter.draws():
            raise ValueError(
                "an adapter in front draws random numbers in training: use dropout=0 on models that read .weight"
            )
        weight = dense(self.base)
        with without_autocast(self.adapter.down.weight):
            down, up = self.adapter.factors()
            there = operand(weight, up)
            changed: Tensor = there + (there @ up) @ down
        return changed.to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        """c + W t, or c where the adapter has no biases."""
        bias, shift = cast("Tensor | None", self.base.bias), self.adapter.shift()
        if bias is None or shift is None:
            return bias
        return (bias + operand(dense(self.base), shift) @ shift).to(bias.dtype)

    def part_of(self, addition: str) -> str:
        """The one it was told, as it is for the whole."""
        return self.part

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with W (1 + S) and c + W t."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes: both are linear."""
        return True

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The base's input is changed as ever."""
        return sharing(self, base=base)

    def splits(self, at: int) -> bool:
        """Where its base does, unless dropout is to be drawn once."""
        return self.adapter.dropout == 0 and splits(self.base, at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop` behind the adapter."""
        return outputs(self.base, self.adapter(x), start, stop)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(self.adapter(x))
