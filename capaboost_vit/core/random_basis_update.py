"""Changes of a weight by learned vectors around frozen random matrices that all layers share: VeRA and RandLoRA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from .start_values import RandomMatrix


class VectorUpdate(nn.Module):
    """`dW = diag(b) B diag(d) A`, of rank up to R, with the R x in and out x R corners of shared random matrices: VeRA.

    b starts at zero, d at `d_initial`.

    Args:
        down: A, with entries (R, at least in).
        up: B, with entries (at least out, R).

    Source: VeRA, arXiv 2310.11454; PEFT's VeraConfig.
    """

    def __init__(
        self, in_features: int, out_features: int, down: RandomMatrix, up: RandomMatrix, d_initial: float
    ) -> None:
        super().__init__()
        self.in_features, self.down, self.up = in_features, down, up
        self.d = nn.Parameter(torch.full((len(down.values),), d_initial))
        self.b = nn.Parameter(torch.zeros(out_features))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        down = self.down.values[:, : self.in_features]
        up = self.up.values[: len(self.b)]
        return (self.b.unsqueeze(1) * up) @ (self.d.unsqueeze(1) * down)


class BasisUpdate(nn.Module):
    """`dW = s sum_j B_j diag(l_j) A diag(g_j)`, j = 1 .. N, N = ceil(min(in, out) / R): RandLoRA, of full rank.

    A (R, smaller width) and the B_j (larger width, R) are corners of shared random matrices; if there are more inputs
    than outputs, the sum is transposed. l starts at zero, g at 1 / max(N, smaller width).

    Args:
        down: A, with entries (R, at least the smaller width).
        up: all B_j, with entries (at least the larger width, R, at least N).
        scaling: s.

    Source: RandLoRA, arXiv 2502.00987; PEFT's RandLoraConfig.
    """

    def __init__(
        self, in_features: int, out_features: int, down: RandomMatrix, up: RandomMatrix, scaling: float
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scaling = in_features, out_features, scaling
        self.down, self.up = down, up
        rank, width = len(down.values), min(in_features, out_features)
        bases = -(-width // rank)
        self.lambdas = nn.Parameter(torch.zeros(rank, bases))
        self.gammas = nn.Parameter(torch.full((bases, width), 1 / max(bases, width)))

    def delta(self, weight: Callable[[], Tensor]) -> Tensor:
        """dW, (out, in); the weight that is changed plays no part."""
        bases, width = self.gammas.shape
        down = self.down.values[:, None, :width]
        up = self.up.values[: max(self.in_features, self.out_features), :, :bases]
        scaled = (self.scaling * self.lambdas).unsqueeze(2) * down * self.gammas  # (R, N, the lesser width)
        change = up.flatten(1) @ scaled.flatten(0, 1)
        return change.t() if self.in_features > self.out_features else change
