"""Token dispatcher: a gate for each token that decides whether a sub-layer processes it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import operand
from .masks import random_state


class TokenDispatcher(nn.Module):
    """`M = [g > 0]`, `g = x w + b` for each token: (B, N) from x (B, N, D).

    In training `M = [g + G > 0]` with logistic noise G, so that M = 1 with probability sigmoid(g), for any tau. The
    gradient of M is that of `sigmoid((g + G) / tau)` (straight-through). The first tokens always have M = 1.

    w starts from N(0, 0.02^2), b from zero, so about half of the tokens are selected at first.

    With a `capacity`, at most `ceil(capacity * (N - always))` of an example's other tokens have M = 1 in evaluation,
    those with the highest g. The same number of tokens is gathered for each example, so shapes do not depend on values.

    Args:
        features: D.
        always: number of the first tokens that always have M = 1.
        tau: temperature of the gradient.
        sampled: whether M is drawn in training.
        capacity: a fraction of the tokens, or None.
        init_seed: with `path` the key of the initial values.

    Source: DyT, arXiv 2403.11808. The capacity is ours.
    """

    mask: Tensor | None = None  # of the last pass in training, for the loss of its mean; in no copy
    counts: list[tuple[Tensor, int]] | None = None  # ones and tokens of each pass that is counted

    def __init__(
        self,
        features: int,
        *,
        always: int = 0,
        tau: float = 5.0,
        sampled: bool = True,
        capacity: float | None = None,
        init_seed: int = 0,
        path: str = "",
    ) -> None:
        super().__init__()
        self.always, self.tau, self.sampled, self.capacity = always, tau, sampled, capacity
        self.complete = False  # M = 1 for all
        start = random_state(init_seed, f"{path}.init").normal(0.0, 0.02, features)
        self.weight = nn.Parameter(torch.from_numpy(start).float())
        self.bias = nn.Parameter(torch.zeros(1))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "mask": None, "counts": None}

    def forward(self, x: Tensor) -> Tensor:
        """M (B, N), 0 or 1, in float32 or wider, with the straight-through gradient."""
        g = self.logits(x)
        if self.training and self.sampled:
            u = torch.rand_like(g)
            g = g + (u.log() - (-u).log1p())
        hard = self.selected(g)
        soft = (g / self.tau).sigmoid()
        # not M - S.detach() + S, which rounds
        mask = torch.where(self._first(g), 1.0, hard.to(g.dtype) + (soft - soft.detach()))
        self.note(hard)
        if self.training:
            self.mask = mask[:, self.always :]
        return mask

    def logits(self, x: Tensor) -> Tensor:
        """g (B, N), in float32 or wider."""
        g = F.linear(operand(x, self.weight), self.weight.unsqueeze(0), self.bias).squeeze(-1)
        return g.to(torch.promote_types(g.dtype, torch.float32))

    def selected(self, g: Tensor) -> Tensor:
        """[g > 0], (B, N) bool, within the capacity; True for the first tokens."""
        hard = g > 0
        if self.capacity is not None and not self.training:
            indices = self.largest(g)
            hard = hard & torch.zeros_like(hard).scatter(1, indices, torch.ones_like(indices, dtype=torch.bool))
        return hard | self._first(g)

    def largest(self, g: Tensor) -> Tensor:
        """Indices of the tokens within the capacity, (B, always + K), those that are always selected first."""
        assert self.capacity is not None
        room = math.ceil(self.capacity * (g.shape[1] - self.always))
        best = g[:, self.always :].topk(room, dim=1).indices + self.always
        return torch.cat([torch.arange(self.always, device=g.device).expand(len(g), -1), best], 1)

    def note(self, hard: Tensor) -> None:
        """Counts the selected tokens in a context of `realised_rate`."""
        if self.counts is not None:
            rest = hard[:, self.always :]
            self.counts.append((rest.sum(), rest.numel()))

    def _first(self, g: Tensor) -> Tensor:
        return torch.arange(g.shape[1], device=g.device) < self.always

    def extra_repr(self) -> str:
        fixed = "" if self.capacity is None else f", capacity={self.capacity:g}"
        return f"{len(self.weight)}, always={self.always}, tau={self.tau:g}{fixed}"


def dispatchers(model: nn.Module) -> list[TokenDispatcher]:
    """The token dispatchers of a model."""
    return [module for module in model.modules() if isinstance(module, TokenDispatcher)]


@contextmanager
def complete(model: nn.Module) -> Iterator[None]:
    """A context in which all tokens are selected (M = 1): the complete model."""
    gates = dispatchers(model)
    for gate in gates:
        gate.complete = True
    try:
        yield
    finally:
        for gate in gates:
            gate.complete = False


class Rate:
    """Realised rate: the fraction of tokens selected by the dispatchers in all counted passes.

    Tokens that are always selected, such as the class token, are not counted.
    """

    def __init__(self, counts: list[list[tuple[Tensor, int]]]) -> None:
        self.of_gates = counts  # of each dispatcher, those of each pass

    def counts(self) -> tuple[float, int]:
        """The number of selected tokens, and of all tokens."""
        pairs = [pair for counts in self.of_gates for pair in counts]
        return float(sum(ones.item() for ones, _ in pairs)), sum(number for _, number in pairs)

    def by_gate(self) -> list[float]:
        """The rate of each dispatcher, in the order of the model."""
        return [sum(o.item() for o, _ in of) / max(1, sum(n for _, n in of)) for of in self.of_gates]

    def __float__(self) -> float:
        ones, number = self.counts()
        return ones / number if number else math.nan


@contextmanager
def realised_rate(model: nn.Module) -> Iterator[Rate]:
    """A context that counts the tokens that a model's dispatchers select.

    Examples:
        >>> with core.realised_rate(model) as rate, torch.no_grad():
        ...     model(images)
        >>> print(float(rate))
        0.55
    """
    gates = dispatchers(model)
    rate = Rate([[] for _ in gates])
    for gate, counts in zip(gates, rate.of_gates, strict=True):
        gate.counts = counts
    try:
        yield rate
    finally:
        for gate in gates:
            gate.counts = None
