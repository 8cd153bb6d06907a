"""Changes of weights that are squares of one decomposed tensor (tensor train, Tucker, CP): FacT's and Aurora's."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

from .dense_update import DenseUpdate, dense_updates
from .inject import Anatomy
from .masking import Masking
from .start_values import uniform
from .target_matrices import matrices_of
from .tied import TiedMaskedWeight


class FactUpdate(nn.Module):
    """`dW = s * V S_l U` for each square (D, D) of dW, with number l; all matrices share U (R, D) and V (D, R).

    A weight (out, in) is cut along its longer side into squares of its shorter side D; the last one is cut off at the
    end of the weight. As a tensor train ("tt") each square has its own S_l (R, R). In a Tucker decomposition ("tk")
    `S_l = sum_c C[:, :, c] p_l[c]` with one C (R, R, R) for all matrices; in CANDECOMP/PARAFAC ("cp") `S_l = diag(c *
    p_l)` with one c (R,), which is Tucker's with a superdiagonal C. V starts at zero, c at one. With masks (ours) each
    square has its own views of U and V.

    Args:
        rank: R.
        masking: of U and V.
        squares: number of squares of all matrices that share U and V, on which the initial values of p depend.
        form: "tt", "tk" or "cp".
        scaling: s.
        path: name of the update: the key of its masks and initial values.

    Source: FacT (AAAI 2023), arXiv 2212.03145; the initialization is that of its code. "cp" is Aurora's (NeurIPS 2023),
    arXiv 2305.08381.
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
        form: str = "tt",
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
        if form in ("tk", "cp"):
            core = uniform((rank, rank, rank), math.sqrt(3) / rank, seed, f"{path}.core.init") if form == "tk" else None
            self.core = nn.Parameter(torch.ones(rank) if core is None else core)
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
        """Makes U, V and C (c) the same as those of `other`; masks and parameters of single squares stay separate."""
        for mine, owner in ((self.downs, other.downs), (self.ups, other.ups)):
            for weight in mine:
                cast(TiedMaskedWeight, weight).share(cast(TiedMaskedWeight, owner[0]))
        if other is not self and other.core is not None:
            self.core = other.core

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        middles = self.scaling * self._middles()
        squares = [(up() @ s @ down()).sum(0) for up, s, down in zip(self.ups, middles, self.downs, strict=True)]
        if self.out_features >= self.in_features:
            return torch.cat(squares)[: self.out_features]
        return torch.cat(squares, 1)[:, : self.in_features]

    def _middles(self) -> Tensor:
        """S_l of each square, (squares, R, R)."""
        if self.core is None:
            return self.mixing
        if self.core.dim() == 1:
            return torch.diag_embed(self.core * self.mixing)
        return torch.einsum("abc,nc->nab", self.core, self.mixing)

    def extra_repr(self) -> str:
        return f"{self.in_features} -> {self.out_features}, squares={len(self.ups)}, scaling={self.scaling:g}"


def squares_of(in_features: int, out_features: int) -> int:
    """Into how many squares a weight of this shape is cut."""
    return -(-max(in_features, out_features) // min(in_features, out_features))


def fact_updates(
    model: nn.Module,
    targets: Iterable[str],
    anatomy: Anatomy,
    rank: int,
    masking: Masking,
    *,
    form: str,
    scaling: float = 1.0,
    dropout: float = 0.0,
) -> Iterator[tuple[str, DenseUpdate]]:
    """(canonical name, wrapper) for each layer that the targets name, with a `FactUpdate` for each targeted part.

    All matrices with the same shorter side share U, V and core. Raises ValueError for a target that matches nothing,
    TypeError for one that is no linear layer.
    """
    squares: Counter[int] = Counter()  # by width
    for matrix in matrices_of(model, targets, anatomy).values():
        squares[min(matrix.shape)] += squares_of(*matrix.shape)
    owners: dict[int, FactUpdate] = {}

    def make(weight: object, in_features: int, out_features: int, path: str) -> nn.Module:
        width = min(in_features, out_features)
        number = squares[width]
        update = FactUpdate(
            in_features, out_features, rank, masking, squares=number, form=form, scaling=scaling, path=path
        )
        owner = owners.setdefault(width, update)
        if owner is not update:
            update.share(owner)
        return update

    return dense_updates(model, targets, anatomy, make, dropout)
