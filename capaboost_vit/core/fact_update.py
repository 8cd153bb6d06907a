"""Changes of weights that are squares of one tensor-train or Tucker decomposition: FacT's."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from .masking import Masking
from .start import uniform
from .tied import TiedMaskedWeight


class FactUpdate(nn.Module):
    """`dW = s * V S_l U`, a square (D, D) of it for each number l: U (R, D) and V (D, R) are those of all matrices.

    A weight (out, in) is cut along its longer side into squares of its shorter side D, and what the last one has too
    much is cut off. As a tensor train each square has its own S_l (R, R); in Tucker's form
    `S_l = sum_c C[:, :, c] p_l[c]` with one C (R, R, R) for all matrices. V starts at zero. With masks (ours) each
    square has its own views of U and V.

    Args:
        rank: R. scaling: s. masking: of U and V.
        squares: those of all matrices that share U and V, on which the start of p depends.
        tucker: Tucker's form instead of a tensor train.
        path: names the update: the key of its masks and start values.

    Source: FacT (AAAI 2023), arXiv 2212.03145; start values are those of its code.
    """

    core: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        masking: Masking,
        *,
        squares: int,
        tucker: bool = False,
        scaling: float = 1.0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scaling = in_features, out_features, scaling
        width = min(in_features, out_features)
        numbers = squares_of(in_features, out_features)
        self.downs = nn.ModuleList(
            TiedMaskedWeight((rank, width), masking, path=f"{path}.{n}.down") for n in range(numbers)
        )
        self.ups = nn.ModuleList(
            TiedMaskedWeight((width, rank), masking, path=f"{path}.{n}.up") for n in range(numbers)
        )
        cast(TiedMaskedWeight, self.downs[0]).fill_uniform(1 / math.sqrt(width))
        self.share(self)
        seed = masking.init_seed
        if tucker:
            self.core = nn.Parameter(uniform((rank, rank, rank), math.sqrt(3) / rank, seed, f"{path}.core.init"))
            self.mixing = nn.Parameter(
                uniform((numbers, rank), math.sqrt(6 / (rank + squares)), seed, f"{path}.mixing.init")
            )
        else:
            self.core = None
            inputs = rank * (numbers if in_features > out_features else 1)  # of the layer that S_l is in the code
            self.mixing = nn.Parameter(
                uniform((numbers, rank, rank), 1 / math.sqrt(inputs), seed, f"{path}.mixing.init")
            )

    def share(self, other: FactUpdate) -> None:
        """From now on U, V and C are the other's own; masks, and what is for one square, stay apart."""
        for mine, owner in ((self.downs, other.downs), (self.ups, other.ups)):
            for weight in mine:
                cast(TiedMaskedWeight, weight).share(cast(TiedMaskedWeight, owner[0]))
        if other is not self and other.core is not None:
            self.core = other.core

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        middle = self.mixing if self.core is None else torch.einsum("abc,nc->nab", self.core, self.mixing)
        squares = [
            (up() @ s @ down()).sum(0) for up, s, down in zip(self.ups, self.scaling * middle, self.downs, strict=True)
        ]
        if self.out_features >= self.in_features:
            return torch.cat(squares)[: self.out_features]
        return torch.cat(squares, 1)[:, : self.in_features]

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, squares={len(self.ups)}, scaling={self.scaling:g}"


def squares_of(in_features: int, out_features: int) -> int:
    """Into how many squares a weight of this shape is cut."""
    return -(-max(in_features, out_features) // min(in_features, out_features))
