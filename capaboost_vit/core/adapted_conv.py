"""A frozen 2d convolution with low-rank branches for parts of its output channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import dense, kind_of
from .branch import LowRankBranch
from .layout import Layout, layout_of
from .part_branches import LowRankWrapper, PartBranches
from .wrapper import merged_weights, unwrap

_GEOMETRY = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")


def shape_of_conv(layer: nn.Module) -> tuple[int, int]:
    """(out, in / groups * kh * kw), the shape of a convolution's weight as a matrix.

    Raises TypeError for a layer that is no nn.Conv2d, or that computes differently, such as one with padding by its
    input size or a standardised weight.
    """
    if not isinstance(layer, nn.Conv2d) or type(layer).forward is not nn.Conv2d.forward:
        raise TypeError(
            f"of convolutions only those that compute as nn.Conv2d take a low-rank update: {kind_of(layer)}"
        )
    columns = layer.in_channels // layer.groups
    for size in layer.kernel_size:
        columns *= size
    return layer.out_channels, columns


class AdaptedConv(LowRankWrapper):
    """`y = base(x) + dW (*) x`, with a branch for each adapted part of the channels of a (possibly fused) convolution.

    dW is B A, (out, in / groups * kh * kw), reshaped. A is a convolution to the rank with kernel size, stride, padding
    and dilation of the base, B a convolution of 1 x 1. All groups share A, which is applied to the channels of each
    group.

    Args:
        base: nn.Conv2d, also in wrappers.
        branches: a branch without activation for each adapted part, by name.
        parts: the names of all parts, as in `AdaptedLinear`.

    `weight` is W + dW, (out, in / groups, kh, kw). Source: PEFT's LoRA of convolutions. Deviations: PEFT's A ignores
    the dilation of the base and, with groups, has all channels as its input, which no weight of the base's shape can
    express.

    Raises:
        TypeError: base is no such convolution.
        ValueError: channels that cannot be divided into the parts, a branch for an unknown part or of the wrong shape,
            or several parts of a convolution with groups.
    """

    def __init__(
        self, base: nn.Module, branches: Mapping[str, LowRankBranch], parts: tuple[str, ...] | Layout = ("all",)
    ) -> None:
        layer: Any = unwrap(base)
        rows, columns = shape_of_conv(layer)
        super().__init__(base)
        self.layout = layout_of(rows, parts, branches)
        self.parts = self.layout.parts
        if layer.groups > 1 and len(self.parts) > 1:
            raise ValueError(f"a convolution of {layer.groups} groups takes one branch, not one for each of its parts")
        self.branches = PartBranches(branches, self.layout, columns)
        for name in _GEOMETRY:  # which code around a convolution reads
            setattr(self, name, getattr(layer, name))
        self.train(base.training)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    @property
    def weight(self) -> Tensor:
        """W + dW, (out, in / groups, kh, kw). Errors in it are never AttributeErrors, as in `AdaptedLinear`."""
        weight = dense(self.base)
        return (weight + self.delta_weight().view_as(weight)).to(weight.dtype)

    def merged(self, base: nn.Module) -> nn.Module:
        """The convolution with W + dW."""
        return merged_weights(self, base)

    def forward(self, x: Tensor) -> Tensor:
        """Maps (B, in, H, W), or without the dimension B, as the base."""
        y = self.base(x)
        deltas = {part: branch(x, self._windows, self._points) for part, branch in self.branches.in_order().items()}
        delta = self.layout.join(deltas, -3, lambda rows: torch.zeros_like(y.narrow(-3, 0, rows)))
        return (y + delta).to(y.dtype)

    def _windows(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A: the base's convolution with other rows, (rows, columns), which are given to each group."""
        layer: Any = unwrap(self.base)
        kernels = weight.view(len(weight), -1, *layer.kernel_size)
        result: Tensor = layer._conv_forward(x, kernels.repeat(layer.groups, 1, 1, 1), bias)
        return result

    def _points(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """B: (groups * R, H', W') to the channels, each of what its own group has made."""
        layer: Any = unwrap(self.base)
        return F.conv2d(hidden, weight[..., None, None], bias, groups=layer.groups)
