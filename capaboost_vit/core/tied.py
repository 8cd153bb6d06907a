"""Tied masked weights: several masked views of one shared weight."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .masking import Masking
from .masks import has_masks, make_masks, random_state
from .products import with_signature

_WITHIN_TWO = (0.022750131948179195, 0.9772498680518208)  # the normal distribution function at -2 and 2
_cached: ContextVar[dict[tuple[int, int, int], tuple[Tensor, Tensor, tuple[int, int], Tensor]] | None] = ContextVar(
    "cached_factors", default=None
)


@contextmanager
def factors_formed_once() -> Iterator[None]:
    """A context in which each masked factor is computed once, for gradient accumulation and evaluation.

    It notices when a weight is changed in place (but not through `.data`, which PyTorch does not count). Each thread
    has its own cache; recomputation in another thread computes the factors again, with the same values.
    """
    token = _cached.set({}) if _cached.get() is None else None
    try:
        yield
    finally:
        if token is not None:
            _cached.reset(token)


class TiedMaskedWeight(nn.Module):
    """K masked views of one shared weight: `W_i = W * M_i`, i = 1..K.

    The weight is one Parameter for any number of branches. The masks are one int8 buffer (K, *shape), which is part of
    the state dict, and which `.to(dtype)` does not change. Without masks (density 1) there is no buffer, and all views
    are equal.

    Args:
        shape: shape of the shared weight, (out, in).
        masking: number and kind of the masks, and the seeds.
        path: name of the weight in the model; with a seed it is the key of its masks and of its initial values.

    On the meta device it has only shapes: no masks and no initial values are drawn.

    Source: CapaBoost (ICLR 2024), arXiv 2407.01320. Deviation: one parameter instead of d synchronised copies; outputs
    and gradients are the same.
    """

    mask: Tensor | None

    def __init__(self, shape: tuple[int, ...], masking: Masking, *, path: str) -> None:
        super().__init__()
        self.num_branches, self.init_seed, self.path = masking.num_branches, masking.init_seed, path
        weight = torch.zeros(shape)
        self.weight = nn.Parameter(weight)
        mask = None
        # the tensor, not the parameter: accelerate's init_empty_weights puts parameters alone on the meta device
        if weight.is_meta and has_masks(masking):
            mask = torch.empty((masking.num_branches, *shape), dtype=torch.int8)
        elif (masks := None if weight.is_meta else make_masks(shape, masking, path=path)) is not None:
            mask = torch.from_numpy(masks)
        self.register_buffer("mask", mask)

    def forward(self) -> Tensor:
        """The masked views, (K, *shape)."""
        if self.mask is None:
            return self.weight.expand(self.num_branches, *self.weight.shape)
        return self.weight * self.mask

    def joined(self, dim: int) -> Tensor:
        """The views, concatenated: (K*out, in) for dim 0, (out, K*in) for dim 1."""
        weight, mask = self.weight, self.mask
        if mask is None:
            return weight if self.num_branches == 1 else torch.cat([weight] * self.num_branches, dim)
        cached = _cached.get()
        if cached is None or torch.compiler.is_compiling() or weight.is_inference():
            return _JoinedViews.apply(weight, mask, dim, _form(weight, mask, dim))
        # weights may be shared by layers with masks of their own
        key, version = (id(weight), id(mask), dim), (weight._version, mask._version)
        *_, formed_at, views = cached.get(key, (None, None))
        if formed_at != version:
            views = _form(weight, mask, dim)
            cached[key] = (weight, mask, version, views)  # both are held: their ids can become no others'
        return _JoinedViews.apply(weight, mask, dim, views)

    def share(self, other: TiedMaskedWeight) -> None:
        """Makes the weight the same Parameter as that of `other`; each keeps its own masks.

        Raises ValueError if the shapes differ.
        """
        if self.weight.shape != other.weight.shape:
            shapes = tuple(self.weight.shape), tuple(other.weight.shape)
            raise ValueError(f"{self.path!r} and {other.path!r} cannot share a weight: their shapes are {shapes}")
        self.weight = other.weight

    @property
    def density(self) -> float:
        """The fraction of entries that a view keeps, averaged over the views."""
        return 1.0 if self.mask is None else self.mask.ne(0).float().mean().item()

    def fill_uniform(self, bound: float) -> None:
        """Draws W from U(-bound, bound), with the key (init_seed, path)."""
        self._fill(lambda start, shape: torch.from_numpy(start.uniform(-bound, bound, shape)))

    def fill_normal(self, std: float) -> None:
        """Draws W from N(0, std^2), with the key (init_seed, path)."""
        self._fill(lambda start, shape: torch.from_numpy(start.normal(0.0, std, shape)))

    def fill_truncated_normal(self, std: float) -> None:
        """Draws W from N(0, std^2) truncated at two standard deviations, with the key (init_seed, path)."""

        def draw(start: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
            shares = torch.from_numpy(start.uniform(*_WITHIN_TWO, shape))
            return std * torch.special.ndtri(shares).to(self.weight.dtype)

        self._fill(draw)

    @torch.no_grad()
    def _fill(self, draw: Callable[[np.random.RandomState, tuple[int, ...]], Tensor]) -> None:
        if not self.weight.is_meta:
            self.weight.copy_(draw(random_state(self.init_seed, f"{self.path}.init"), tuple(self.weight.shape)))

    def extra_repr(self) -> str:
        return f"{tuple(self.weight.shape)}, num_branches={self.num_branches}, density={self.density:.3g}"


def _form(weight: Tensor, mask: Tensor, dim: int) -> Tensor:
    """The masked views side by side, without a gradient."""
    weight = weight.detach()
    if dim == 0:
        return (weight * mask).flatten(0, 1)
    return (weight.unsqueeze(1) * mask.transpose(0, 1)).flatten(1)


class _JoinedViews(torch.autograd.Function):
    """Gives out views that are formed already; the gradient of the weight is `sum_i M_i * dV_i`."""

    generate_vmap_rule = True

    @staticmethod
    @with_signature
    def forward(weight: Tensor, mask: Tensor, dim: int, views: Tensor) -> Tensor:
        return views.view_as(views)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, mask, ctx.dim, _ = inputs
        ctx.save_for_backward(mask)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        (mask,) = ctx.saved_tensors
        views = grad.unflatten(ctx.dim, (len(mask), -1)).movedim(ctx.dim, 0)  # (K, out, in)
        return (views * mask).sum(0), None, None, None
