"""Low-rank updates by kind of layer: what its weight is as a matrix, and the wrapper that changes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from .adapted_attention import AdaptedAttention, shape_of_in_proj
from .adapted_conv import AdaptedConv, shape_of_conv
from .adapted_linear import AdaptedLinear
from .base import is_linear, kind_of, shape_of
from .branch import LowRankBranch
from .layout import Layout
from .wrapper import Wrapper, unwrap


@dataclass(frozen=True)
class LowRankKind:
    """A kind of layers that take a low-rank update.

    Args:
        fits: whether a layer, without its wrappers, is of this kind.
        shape: (rows, columns) of its weight as a matrix; raises TypeError for one that cannot be updated.
        wrap: makes the wrapper of the base, a branch for each adapted part, the layout of the rows, and how linear
            layers are computed.
    """

    fits: Callable[[nn.Module], bool]
    shape: Callable[[nn.Module], tuple[int, int]]
    wrap: Callable[[nn.Module, Mapping[str, LowRankBranch], Layout, str], Wrapper]


KINDS = [
    LowRankKind(is_linear, shape_of, AdaptedLinear),
    LowRankKind(
        lambda layer: isinstance(layer, nn.Conv2d),
        shape_of_conv,
        lambda base, branches, layout, _: AdaptedConv(base, branches, layout),
    ),
    LowRankKind(
        lambda layer: isinstance(layer, nn.MultiheadAttention),
        shape_of_in_proj,
        lambda base, branches, layout, _: AdaptedAttention(base, branches, layout),
    ),
]


def takes_low_rank(layer: nn.Module) -> bool:
    """Whether a layer, in wrappers or not, is of one of the kinds."""
    return any(kind.fits(unwrap(layer)) for kind in KINDS)


def low_rank_kind(layer: nn.Module, name: str) -> LowRankKind:
    """The kind of the layer of this name, in wrappers or not. Raises TypeError if it is of none."""
    for kind in KINDS:
        if kind.fits(unwrap(layer)):
            return kind
    found = kind_of(unwrap(layer))
    raise TypeError(f"LoRA needs linear layers, but {name!r} is a {found}, no 2d convolution, no nn.MultiheadAttention")
