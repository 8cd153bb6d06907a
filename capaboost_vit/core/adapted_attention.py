"""torch's nn.MultiheadAttention, frozen, with low-rank branches on its fused queries, keys and values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .base import copied, kind_of
from .branch import LowRankBranch
from .layout import Layout, layout_of
from .part_branches import LowRankWrapper, PartBranches
from .wrapper import unwrap

_NAME = "in_proj_weight"


def shape_of_in_proj(layer: nn.Module) -> tuple[int, int]:
    """(3 * width, width), the shape of the fused weight of queries, keys and values.

    Raises TypeError for another module, or one whose keys or values have a width of their own, and so no such weight.
    """
    weight = getattr(layer, _NAME, None)
    if not isinstance(layer, nn.MultiheadAttention) or not isinstance(weight, Tensor):
        raise TypeError(
            f"only attention whose queries, keys and values share one in_proj_weight takes a low-rank update there: "
            f"{kind_of(layer)} with kdim or vdim"
        )
    rows, columns = weight.shape
    return rows, columns


class AdaptedAttention(LowRankWrapper):
    """nn.MultiheadAttention with `W + dW` as its in_proj_weight, one branch for each adapted part of the rows.

    The base itself computes, with that weight in place of its own during the call: masks, attention weights and the
    fast path of evaluation mode are its own. Who reads the attributes of the layer, as nn.TransformerEncoderLayer does
    for a fast path of its own, finds them here, and W + dW as in_proj_weight.

    The weight stands in the layer itself during a call, so two threads must not call one model at the same time.

    As the layer computes in the dtype of its weight, beside a bfloat16 base dW is rounded with it.

    Args:
        base: nn.MultiheadAttention, in wrappers or not; its `out_proj` is a slot of its own.
        branches: a branch without activation for each adapted part, by name.
        parts: the names of all parts in the order of the rows: ("q", "k", "v"), or ("all",).

    Raises:
        TypeError: base is no such module, see `shape_of_in_proj`.
        ValueError: a branch for an unknown part, of the wrong shape, or with dropout, which no weight has.
    """

    def __init__(
        self, base: nn.Module, branches: Mapping[str, LowRankBranch], parts: tuple[str, ...] | Layout = ("all",)
    ) -> None:
        rows, columns = shape_of_in_proj(unwrap(base))
        if any(branch.dropout or branch.rank_dropout for branch in branches.values()):
            raise ValueError("nn.MultiheadAttention reads its weight, and no weight has dropout: use dropout=0")
        super().__init__(base)
        self.layout = layout_of(rows, parts, branches)
        self.parts = self.layout.parts
        self.branches = PartBranches(branches, self.layout, columns)
        self.train(base.training)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # not the weight, should the property fail: the base's own has no update
            if name == _NAME or name.startswith("__") or "base" not in self.__dict__.get("_modules", {}):
                raise
            return getattr(self.base, name)

    @property
    def in_proj_weight(self) -> Tensor:
        """W + dW, (3 * width, width), in the dtype of W."""
        weight: Tensor = self.base.in_proj_weight
        return (weight + self.delta_weight()).to(weight.dtype)

    def cannot_merge(self) -> str | None:
        """A gate alone; the weight is a parameter of the layer."""
        return "a gate depends on the input, which no weight can express" if self.gated() else None

    @torch.no_grad()
    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with W + dW, formed in at least float32 and rounded once."""
        merged: Any = copied(base)
        exact = torch.promote_types(merged.in_proj_weight.dtype, torch.float32)
        merged.in_proj_weight.copy_(merged.in_proj_weight.to(exact) + self.delta_weight().to(exact))
        return merged

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """As the base: query, key, value and what else it takes."""
        parameters: dict[str, Any] = unwrap(self.base)._parameters
        weight = parameters[_NAME]  # which may be another wrapper's W + dW already
        # as torch.func.functional_call does it, which refuses to be traced by torch.jit
        parameters[_NAME] = (weight + self.delta_weight()).to(weight.dtype)
        try:
            result: tuple[Tensor, Tensor | None] = self.base(*args, **kwargs)
        finally:
            parameters[_NAME] = weight
        return result
