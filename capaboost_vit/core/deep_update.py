"""A change of a weight that is a product of small factors: Deep LoRA's."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import torch
from torch import Tensor, nn

from .masks import random_state

DEPTH = 3


class DeepUpdate(nn.Module):
    """`dW = W_3 W_2 W_1`, or compressed `dW = left W_3 W_2 W_1 right^T`, with inner factors (R, R).

    W_1 (R, in), W_2 (R, R) and W_3 (out, R) start as `init_scale` e times orthogonal matrices. If compressed, they
    start as e I, and left and right are orthonormal: random ones, until `compress` sets them from a gradient. So dW
    starts with the spectral norm e^3, 1e-9 by default.

    `factors` are all factors, from right to left; `outer` are left and right, if compressed.

    Args:
        rank: R.
        init_scale: e.
        compressed: whether there are left and right.
        init_seed: with the path the key of the orthogonal matrices.
        path: name of the update in the model.

    Source: Deep LoRA (ICML 2024), arXiv 2406.04112.
    """

    probe: nn.Parameter | None  # zeros (out, in) that are added to dW, to have the gradient of the weight

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        *,
        init_scale: float,
        compressed: bool = False,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.rank = in_features, out_features, rank
        self.init_scale, self.compressed, self.init_seed, self.path = init_scale, compressed, init_seed, path
        shapes = [(rank, in_features), *[(rank, rank)] * (DEPTH if compressed else DEPTH - 2), (out_features, rank)]
        self.factors = nn.ParameterList(nn.Parameter(torch.zeros(shape)) for shape in shapes)
        self.register_parameter("probe", None)
        for number, factor in enumerate(self.factors):
            if factor.is_meta:
                continue
            inner = compressed and 0 < number < len(shapes) - 1
            start = torch.eye(rank) if inner else self._orthogonal(len(factor), factor.shape[1], str(number))
            factor.data.copy_(start if compressed and not inner else init_scale * start)

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        right, *inner, left = self.factors
        delta: Tensor = left @ reduce(lambda product, factor: factor @ product, inner) @ right
        return delta if self.probe is None else delta + self.probe

    def outer(self) -> list[nn.Parameter]:
        """left and right, of a compressed one."""
        return [self.factors[0], self.factors[-1]] if self.compressed else []

    @torch.no_grad()
    def compress(self, gradient: Tensor) -> None:
        """Sets left and right from the gradient G (out, in) of the weight, those of a wide product `W_3 W_2 W_1`.

        Its factors are e times orthogonal Q_i, max(in, out) wide. Of `g = (W_3 W_2)^T G`, the gradient of W_1, let U
        and V be the first R / 2 singular vectors: right is an orthonormal basis of the columns of `Q_1^T U` and V, and
        left is `Q_3 Q_2 Q_1 right`. Where W_1 is not square (in < out) the same is done for dW^T.

        Source: the authors' code. Deviations: there the basis comes from the complement, as that of the vectors that
        are orthogonal to all others; it is of the same space. What the code does with dW^T is not found: this is ours.
        """
        transposed = self.in_features < self.out_features
        g = (gradient.t() if transposed else gradient).double()
        rows, width = g.shape  # out <= in
        first, second = (self._orthogonal(width, width, name=f"wide.{n}").to(g) for n in (1, 2))
        rest = self._orthogonal(rows, width, name="wide.3").to(g) @ second
        u, _, vh = torch.linalg.svd(rest.t() @ g, full_matrices=False)
        half = self.rank // 2
        right, _ = torch.linalg.qr(torch.cat([first.t() @ u[:, :half], vh[:half].t()], 1))
        left = rest @ (first @ right)
        if transposed:
            left, right = right, left
        self.factors[0].copy_(right.t())
        self.factors[-1].copy_(left)

    def _orthogonal(self, rows: int, columns: int, name: str) -> Tensor:
        """Orthonormal rows or columns, whichever are fewer, keyed by (init_seed, path, name)."""
        normal = random_state(self.init_seed, f"{self.path}.{name}.init").normal(size=(rows, columns))
        if rows < columns:
            return torch.from_numpy(np.linalg.qr(normal.T)[0].T.copy())
        return torch.from_numpy(np.linalg.qr(normal)[0])

    def extra_repr(self) -> str:
        form = ", compressed" if self.compressed else ""
        return f"{self.in_features} -> {self.rank} -> {self.out_features}{form}"
