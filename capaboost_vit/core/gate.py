"""Gates: a learned number for each example, or for each token, by which a branch is multiplied."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import operand
from .masks import random_state


class Padding:
    """Padding mask: which positions of the sequences at hand are real, (B, N) bool, or None for all; shared by gates.

    Whoever sees a layer's mask sets it. It belongs to the batch, so copies and pickles begin without it.
    """

    real: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Gate(nn.Module):
    """`g = mean over the real positions of sigmoid(x w + b)`, (B, 1, 1) from x (B, N, D).

    w starts from N(0, 0.02^2), b from zero, so g is about a half at first.

    Args:
        features: D.
        padding: shared by all gates of a model; without it every position counts.
        init_seed, path: key of the start values.

    Source: UniPELT, arXiv 2110.07577. Deviation: padding has no part in the mean, so that the answer for an example
    does not depend on what stands beside it in the batch.
    """

    by_row: ClassVar[bool] = False

    def __init__(self, features: int, *, padding: Padding | None = None, init_seed: int = 0, path: str = "") -> None:
        super().__init__()
        self.padding = padding or Padding()
        start = random_state(init_seed, f"{path}.gate.init").normal(0.0, 0.02, features)
        self.weight = nn.Parameter(torch.from_numpy(start).float())
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """x (B, N, D) or (B, H, W, D) maps; positions that the mask does not know stand in front and are real.

        Of an example without any real position g is zero.
        """
        g = F.linear(operand(x, self.weight), self.weight.unsqueeze(0), self.bias).sigmoid().flatten(1, -2)  # (B, N, 1)
        real = self.padding.real
        if real is not None:
            real = F.pad(real, (g.shape[1] - real.shape[1], 0), value=True).unsqueeze(-1).to(g.dtype)
            mean = (g * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
        else:
            mean = g.mean(1, keepdim=True)
        return mean.view(-1, *[1] * (x.dim() - 1))


class TokenScale(nn.Module):
    """`g = relu(x w + b)` of each token, (..., 1) from x (..., D): a token with g = 0 gets nothing of the branch.

    w starts from zero and b from one, so g is one at first.

    Source: DAPT, arXiv 2403.01439. There w starts at random, so that about half of the tokens get nothing, and no
    gradient, at first.
    """

    by_row: ClassVar[bool] = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """One, whatever x is."""
        self.weight.zero_()
        self.bias.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(operand(x, self.weight), self.weight.unsqueeze(0), self.bias).relu()
