"""Pruned tables of virtual tokens: some of the rows, and some of the segments of each row."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from .masking import PLAIN
from .tied import TiedMaskedWeight


class PrunedTable(nn.Module):
    """P' rows of a table (P, D), with S' of the S segments of each row; the entries of other segments are zero.

    Segment s of a row are its entries from s D / S to (s + 1) D / S. Only what remains is stored: there are P' vectors,
    and `values` has P' S' D / S entries. `segments` (P', S') are the indices of the remaining segments; until `take` is
    called these are the first segments of the first rows.

    Args:
        whole: the complete table; the remaining entries keep their masks.
        rows: P'.
        kept: S'.
        count: S, a divisor of D.
    """

    segments: Tensor

    def __init__(self, whole: TiedMaskedWeight, *, rows: int, kept: int, count: int) -> None:
        super().__init__()
        self.width, self.count, like = whole.weight.shape[1], count, whole.weight
        shape = (rows, kept * like.shape[1] // count)
        self.values = TiedMaskedWeight(shape, replace(PLAIN, num_branches=whole.num_branches), path=whole.path)
        self.values.to(like).init_seed = whole.init_seed
        if whole.mask is not None:
            self.values.mask = whole.mask.new_empty(whole.num_branches, *shape)
        self.register_buffer("segments", torch.empty(rows, kept, dtype=torch.int32, device=like.device))
        places = torch.arange(max(rows, kept), device=like.device)
        self.take(whole, places[:rows], places[:kept].expand(rows, kept))

    @torch.no_grad()
    def take(self, whole: TiedMaskedWeight, rows: Tensor, segments: Tensor) -> None:
        """Copies these rows (P',) of the table, with these segments (P', S') of each: values and masks."""

        def entries(table: Tensor) -> Tensor:  # (..., P, D) to (..., P', S' D / S)
            pieces = table.unflatten(-1, (self.count, -1))[..., rows, :, :]
            places = segments[..., None].expand(*pieces.shape[:-3], *segments.shape, pieces.shape[-1])
            return pieces.gather(-2, places).flatten(-2)

        self.segments.copy_(segments)
        self.values.weight.copy_(entries(whole.weight))
        if self.values.mask is not None and whole.mask is not None:
            self.values.mask.copy_(entries(whole.mask))

    def forward(self) -> Tensor:
        """The masked views, (K, P', D)."""
        views = self.values().unflatten(-1, (self.segments.shape[1], -1))  # (K, P', S', D / S)
        if self.segments.shape[1] == self.count:
            return views.flatten(-2)
        places = self.segments.long()[..., None].expand_as(views)
        return views.new_zeros(*views.shape[:2], self.count, views.shape[-1]).scatter(2, places, views).flatten(-2)
