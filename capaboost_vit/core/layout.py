"""The layout of a fused layer: which of its rows belong to which of its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..io.options import check_value


@dataclass(frozen=True)
class Layout:
    """The rows of a fused layer: `heads` groups, one after the other, each with `sizes` rows of its parts.

    In most layers q, k and v are three equal parts of one group. In LeViT's layers each head has its own q, k and v, in
    MobileViTv2's there is a single query.
    """

    parts: tuple[str, ...]
    sizes: tuple[int, ...]
    heads: int = 1

    @property
    def rows(self) -> int:
        """Those of the whole layer."""
        return self.heads * sum(self.sizes)

    def rows_of(self, part: str) -> int:
        """Those of a part, of all heads."""
        return self.heads * self.sizes[self.parts.index(part)]

    def is_equal(self) -> bool:
        """Whether it is equal parts, one behind the other."""
        return self.heads == 1 and len(set(self.sizes)) == 1

    def spans(self) -> dict[str, tuple[int, int]]:
        """Rows from .. to of each part; of one head, where parts are in one piece."""
        assert self.heads == 1
        ends = list(accumulate(self.sizes))
        return {part: (end - size, end) for part, size, end in zip(self.parts, self.sizes, ends, strict=True)}

    def splits(self, at: int) -> bool:
        """Whether no part has rows both before and from `at` on."""
        return self.heads == 1 and at in (0, *accumulate(self.sizes))

    def between(self, start: int, stop: int) -> Layout:
        """The layout of the rows from `start` to `stop`, between which the layer `splits`; or of all, of any layer."""
        if (start, stop) == (0, self.rows):
            return self
        inside = [part for part, (first, end) in self.spans().items() if start <= first and end <= stop]
        return Layout(tuple(inside), tuple(self.rows_of(part) for part in inside))

    def split(self, tensor: Tensor, dim: int) -> dict[str, Tensor]:
        """What each part has of a tensor whose dimension `dim` is the rows."""
        dim %= tensor.dim()
        pieces = tensor.unflatten(dim, (self.heads, -1)).split(self.sizes, dim + 1)
        return {part: piece.flatten(dim, dim + 1) for part, piece in zip(self.parts, pieces, strict=True)}

    def join(self, pieces: Mapping[str, Tensor], dim: int, fill: Callable[[int], Tensor] | None = None) -> Tensor:
        """The tensor that `split` splits into these pieces; `fill(n)` makes the n rows of a part that has none."""
        ordered = [fill(self.rows_of(p)) if fill is not None and p not in pieces else pieces[p] for p in self.parts]
        if len(ordered) == 1:
            return ordered[0]
        if self.heads == 1:
            return torch.cat(ordered, dim)
        dim %= ordered[0].dim()
        return torch.cat([piece.unflatten(dim, (self.heads, -1)) for piece in ordered], dim + 1).flatten(dim, dim + 1)


def layout_of(rows: int, parts: tuple[str, ...] | Layout, adapted: Iterable[str] = ()) -> Layout:
    """The layout of a layer with so many rows; names without sizes are equal parts.

    Raises ValueError for rows that cannot be divided so, or an adapted part that is none of the parts.
    """
    layout = parts
    if not isinstance(layout, Layout):
        if rows % len(layout):
            raise ValueError(f"{rows} rows do not split into the {len(layout)} parts {', '.join(layout)}")
        layout = Layout(layout, (rows // len(layout),) * len(layout))
    if layout.rows != rows:
        sizes = " + ".join(map(str, layout.sizes))
        raise ValueError(f"{rows} rows are not {layout.heads} x ({sizes}) of the parts {', '.join(layout.parts)}")
    check_value("an adapted part", [*adapted], Any, {"choices": layout.parts})
    return layout
