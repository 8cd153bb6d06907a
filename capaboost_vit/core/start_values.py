"""Start values of what is trained, and of what stays random: functions of a seed and a path."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .masks import random_state


def uniform(shape: tuple[int, ...], bound: float, seed: int, path: str) -> Tensor:
    """Numbers from U(-bound, bound), keyed by (seed, path). On the meta device they are a shape alone."""
    values = torch.empty(shape)
    if not values.is_meta:
        values.copy_(torch.from_numpy(random_state(seed, path).uniform(-bound, bound, shape)))
    return values


def normal(shape: tuple[int, ...], seed: int, path: str) -> Tensor:
    """Numbers from N(0, 1), keyed by (seed, path). On the meta device they are a shape alone."""
    values = torch.empty(shape)
    if not values.is_meta:
        values.copy_(torch.from_numpy(random_state(seed, path).standard_normal(shape)))
    return values


def laplace(shape: tuple[int, ...], scale: float, seed: int, path: str) -> Tensor:
    """Numbers from Laplace(0, scale), keyed by (seed, path). On the meta device they are a shape alone."""
    values = torch.empty(shape)
    if not values.is_meta:
        values.copy_(torch.from_numpy(random_state(seed, path).laplace(0, scale, shape)))
    return values


class RandomMatrix(nn.Module):
    """A frozen random matrix shared by several updates: `values` from U(-bound, bound), with the key (seed, path).

    It is not stored, as it is a function of its key.
    """

    values: Tensor

    def __init__(self, shape: tuple[int, ...], bound: float, seed: int, path: str) -> None:
        super().__init__()
        self.register_buffer("values", uniform(shape, bound, seed, path), persistent=False)

    def extra_repr(self) -> str:
        return f"{tuple(self.values.shape)}"
