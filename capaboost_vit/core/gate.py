"""Gates: learned factors of a branch that depend on the input, one for each example or each token."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import operand
from .masks import random_state


class Padding:
    """Padding mask of the current batch, shared by gates: True for real positions, (B, N) bool; None if all are real.

    It is set by whoever receives a layer's mask. Copies and pickles do not contain it.
    """

    real: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {}


class Gate(nn.Module):
    """`g = mean over the real positions of sigmoid(x w + b)`, (B, 1, 1) from x (B, N, D).

    w starts from N(0, 0.02^2), b from zero, so g is about 0.5 at first.

    Args:
        features: D.
        padding: shared by all gates of a model; without it all positions are real.
        init_seed, path: key of the initial values.

    Source: UniPELT, arXiv 2110.07577. Deviation: padding does not enter the mean, so that the prediction for an example
    does not depend on the rest of the batch.
    """

    by_row: ClassVar[bool] = False

    def __init__(self, features: int, *, padding: Padding | None = None, init_seed: int = 0, path: str = "") -> None:
        super().__init__()
        self.padding = padding or Padding()
        start = random_state(init_seed, f"{path}.gate.init").normal(0.0, 0.02, features)
        self.weight = nn.Parameter(torch.from_numpy(start).float())
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """x is (B, N, D) or (B, H, W, D). Positions before those of the padding mask, such as a prompt, are real.

        For an example without real positions g is zero.
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
    """`g = relu(x w + b)` for each token, (..., 1) from x (..., D): a token with g = 0 has no update.

    w starts from zero and b from one, so g is one at first.

    Source: DAPT, arXiv 2403.01439. Deviation: there w starts at random, so that about half of the tokens have no
    update, and no gradient, at first.
    """

    by_row: ClassVar[bool] = True

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(features))
        self.bias = nn.Parameter(torch.empty(1))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """w becomes zero and b one, so that g is one."""
        self.weight.zero_()
        self.bias.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(operand(x, self.weight), self.weight.unsqueeze(0), self.bias).relu()
