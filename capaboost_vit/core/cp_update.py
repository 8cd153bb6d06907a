"""Changes of weights that are slices of one low-rank tensor, in the form of CANDECOMP/PARAFAC: LoRTA's."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor, nn

from .masking import Masking
from .start_values import uniform
from .tied import TiedMaskedWeight


class CpUpdate(nn.Module):
    """`dW[h j, i] = s * sum_r A[r, i] B[j, r] c_heads[h, r] c_kinds[m, r] c_layers[l, r]`, a slice of a CP tensor.

    h is a head and j an entry of it, so h j is a row of the weight (out, in). With `heads_in_columns` dW is the
    transpose, as for the output projection of the attention, whose inputs are split into heads. The rank of a slice is
    at most R. With masks (ours) the slice has its own views of A and B, and the same c for all views.

    Args:
        whole, split: the size of the side that is not split into heads, and of the other one.
        rank: R.
        sizes: numbers of heads H, of kinds of matrices M and of layers L.
        masking: of A (R, whole) and B (split / H, R).
        kind, layer: indices of this slice.
        heads_in_columns: whether the heads split the inputs.
        scaling: s.
        path: name of the slice: the key of its masks and initial values. B starts at zero.
    """

    def __init__(
        self,
        whole: int,
        split: int,
        rank: int,
        sizes: tuple[int, int, int],
        masking: Masking,
        *,
        kind: int = 0,
        layer: int = 0,
        heads_in_columns: bool = False,
        scaling: float = 1.0,
        path: str = "",
    ) -> None:
        super().__init__()
        heads = sizes[0]
        self.kind, self.layer, self.heads_in_columns = kind, layer, heads_in_columns
        self.scaling, self.num_branches = scaling, masking.num_branches
        self.down = TiedMaskedWeight((rank, whole), masking, path=f"{path}.down")
        self.up = TiedMaskedWeight((split // heads, rank), masking, path=f"{path}.up")
        self.down.fill_uniform(1 / math.sqrt(rank))  # kaiming_uniform(a=sqrt(5)) of (whole, R)
        names = ("heads", "kinds", "layers")
        self.heads, self.kinds, self.layers = (
            _vectors(size, rank, masking.init_seed, f"{path}.{name}") for size, name in zip(sizes, names, strict=True)
        )

    def share(self, other: CpUpdate) -> None:
        """Makes it a slice of the tensor of `other`: everything is shared except the masks."""
        self.down.share(other.down)
        self.up.share(other.up)
        self.heads, self.kinds, self.layers = other.heads, other.kinds, other.layers

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        c = self.scaling * self.heads * self.kinds[self.kind] * self.layers[self.layer]  # (H, R)
        up = c.repeat(1, self.num_branches).unsqueeze(1) * self.up.joined(1)  # (H, split / H, K*R)
        delta = up.flatten(0, 1) @ self.down.joined(0)
        return delta.t() if self.heads_in_columns else delta

    def extra_repr(self) -> str:
        return f"kind={self.kind}, layer={self.layer}, scaling={self.scaling:g}"


def _vectors(size: int, rank: int, init_seed: int, path: str) -> nn.Parameter:
    """A vector of R entries for each head, kind or layer, (size, R), from kaiming_uniform(a=0)."""
    return nn.Parameter(uniform((size, rank), math.sqrt(6 / rank), init_seed, f"{path}.init"))
