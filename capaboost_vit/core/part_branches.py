"""The low-rank branches of a layer's parts, as one update of its weight, and the wrapper around such a layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from .branch import LowRankBranch
from .layout import Layout
from .wrapper import Wrapper


class PartBranches(nn.ModuleDict):
    """The branches of the adapted parts of a layer, by part: a change dW of its weight as a matrix (out, columns).

    The columns are the inputs of a linear layer; of a convolution, the entries of a window: in / groups * kh * kw.

    Args:
        branches: a branch without activation for each adapted part.
        layout: of the layer's rows.
        columns: of the weight.

    Raises ValueError for a branch of the wrong shape.
    """

    def __init__(self, branches: Mapping[str, LowRankBranch], layout: Layout, columns: int) -> None:
        for part, branch in branches.items():
            size = layout.rows_of(part)
            if (branch.out_features, branch.in_features) != (size, columns):
                raise ValueError(
                    f"the branch for {part!r} maps {branch.in_features} to {branch.out_features}, "
                    f"the layer's part {columns} to {size}"
                )
        super().__init__(branches)
        self.layout, self.columns = layout, columns

    def in_order(self) -> dict[str, LowRankBranch]:
        """The branches in the order of their rows."""
        return {part: cast(LowRankBranch, self[part]) for part in self.layout.parts if part in self}

    def delta_weight(self) -> Tensor:
        """dW, (out, columns): the branches' updates in the rows of their parts, zero elsewhere."""
        return self._joined({part: branch.delta_weight() for part, branch in self.in_order().items()}, self.columns)

    def linear_factors(self) -> tuple[Tensor, Tensor] | None:
        """The branches' A below each other, their B side by side, zero in the rows of other parts; None with a gate."""
        downs, ups = [], []
        for part, branch in self.in_order().items():
            factors = branch.linear_factors()
            if factors is None:
                return None
            downs.append(factors[0])
            ups.append(self._joined({part: factors[1]}, factors[1].shape[1]))
        return torch.cat(downs), torch.cat(ups, dim=1)

    def trained(self) -> Iterator[nn.Parameter]:
        """The factors, less those that a branch keeps as they are (LoRA-FA)."""
        return (parameter for branch in self.in_order().values() for parameter in branch.trained_parameters())

    def _joined(self, pieces: Mapping[str, Tensor], columns: int) -> Tensor:
        like = next(iter(pieces.values()), torch.empty(0))
        return self.layout.join(pieces, 0, lambda rows: like.new_zeros(rows, columns))


class LowRankWrapper(Wrapper):
    """A layer whose weight, as a matrix (out, columns), is changed by the branches of its parts."""

    adds = "a low-rank branch"
    base: Any
    branches: PartBranches

    def delta_weight(self) -> Tensor:
        """dW, (out, columns): the branches' updates in the rows of their parts, zero elsewhere."""
        return self.branches.delta_weight()

    def linear_factors(self) -> tuple[Tensor, Tensor] | None:
        """A (R, columns) and B (out, R) of all parts; None with a gate."""
        return self.branches.linear_factors()

    def trained(self) -> list[nn.Parameter]:
        """The factors, less those that a branch keeps as they are (LoRA-FA)."""
        return [*self.branches.trained()]
