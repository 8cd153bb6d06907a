"""Scaling: a frozen layer whose outputs or inputs are multiplied by learned vectors, and shifted by others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..io.options import check_value
from .base import dense, shape_of
from .first_rows import outputs, splits
from .gate import Gate
from .inject import features
from .layout import Layout, layout_of
from .wrapper import NoShortCut, Wrapper, merged_weights, sharing, unwrap


class Scale(nn.Module):
    """`y = l * x + b`, or with a gate `x + g ((l - 1) * x + b)`; l starts at one, b at zero: the identity at first.

    l has `features` entries; there is a b if `shift`.
    """

    def __init__(self, features: int, *, shift: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.bias = nn.Parameter(torch.zeros(features)) if shift else None
        self.gate: Gate | None = None

    def forward(self, x: Tensor, gated_by: Tensor) -> Tensor:
        """x (..., features); `gated_by` is what the gate, if there is one, looks at."""
        if self.gate is None:
            return _affine(x, self.weight, self.bias)
        g = self.gate(gated_by)
        return _affine(x, 1 + g * (self.weight - 1), None if self.bias is None else g * self.bias)

    def vector(self) -> Tensor:
        """l, (features,). Raises TypeError if a gate makes it depend on the input."""
        if self.gate is not None:
            raise TypeError("this scale has a gate, which depends on the input: no weight can express it")
        return self.weight


class Scaled(Wrapper):
    """`y = l * base(x) + b` for the rows of some parts ("output"), or `y = base(l * x)` ("input"): IA3, SSF.

    Args:
        base: a layer, usually linear. Convolutions, group norms and norms of maps (LayerNorm2d) are scaled along their
            channels.
        scales: a scale for each part, by name; for "input" one for the part "all", without a shift.
        parts: the names of all parts in the order of the rows, such as q, k and v of a fused qkv, if they are equal
            parts; otherwise a layout.
        side: "output" or "input".

    `weight` and `bias` are those of the layer that computes the same, if the base has them.

    Source: IA3, arXiv 2205.05638; SSF, arXiv 2210.08823.

    Raises ValueError for an unknown side, a scale for an unknown part, or a shift of an input.
    """

    adds = "a scale"

    def __init__(
        self,
        base: nn.Module,
        scales: Mapping[str, Scale],
        parts: tuple[str, ...] | Layout = ("all",),
        side: str = "output",
    ) -> None:
        names = parts.parts if isinstance(parts, Layout) else parts
        check_value("side", side, str, {"choices": ("output", "input")})
        check_value("a scaled part", [*scales], Any, {"choices": names if side == "output" else ("all",)})
        shifted = any(scale.bias is not None for scale in scales.values())
        if shifted and side == "input":
            raise ValueError("only outputs are shifted, got a shift of the input")
        super().__init__(base)
        self.scales = nn.ModuleDict(scales)
        self.parts, self.side, self.shifted = names, side, shifted
        self.layout = parts
        self.channel = _channel_of(unwrap(base))
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """`diag(l) W` or `W diag(l)`, (out, in, ...). Errors here are never AttributeErrors (nn.Module swallows them).

        Raises TypeError for a gate, a base without weight, or a shift where there is no bias to hold it: who reads the
        weight alone would lose the shift.
        """
        weight = self._of_base("weight")
        assert weight is not None
        if self.side == "input":
            return _affine(weight, cast(Scale, self.scales["all"]).vector(), None)
        if self.shifted and self._of_base("bias") is None:
            raise TypeError(
                f"a {type(unwrap(self.base)).__name__} without bias is shifted, which its weight alone does not tell: "
                "call the layer, or leave it out of targets"
            )
        return _affine(weight, self._vectors(weight, len(weight))[0].view(-1, *[1] * (weight.dim() - 1)), None)

    @property
    def bias(self) -> Tensor | None:
        """`l * c + b` for the bias c of the base, or c where the input is scaled."""
        bias = self._of_base("bias")
        if bias is None or self.side == "input":
            return bias
        factor, shift = self._vectors(bias, len(bias))
        return _affine(bias, factor, shift)

    def gate_widths(self) -> dict[str, int]:
        """The gates look at the layer's input."""
        return dict.fromkeys(self.additions(), features(self)[0])

    def cannot_merge(self) -> str | None:
        """Besides what it is for every wrapper, a shift without a bias to hold it."""
        if self.shifted and getattr(unwrap(self.base), "bias", None) is None:
            return "there is no bias that could hold the shift"
        return super().cannot_merge()

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with the scaled weight and bias."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes of rows of channels, but for a gate, which looks at all of them."""
        return self.channel == -1 and not self.gated()

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The base's input, or the rows of its output, are scaled as ever."""
        if not self.by_row():
            raise NoShortCut(self.needs_all_rows())
        return sharing(self, base=base)

    def splits(self, at: int) -> bool:
        """Where its base does: each feature has its own entry of the vectors."""
        return self.by_row() and splits(self.base, at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop`, scaled by their part of the vectors."""
        if self.side == "input":
            return outputs(self.base, self.scales["all"](x, x), start, stop)
        y = outputs(self.base, x, start, stop)
        factor, shift = self._vectors(y, shape_of(unwrap(self.base))[0])
        return _affine(y, factor[start:stop], None if shift is None else shift[start:stop])

    def forward(self, x: Tensor) -> Tensor:
        if self.side == "input":
            return self.base(self.scales["all"](x, x))
        y = self.base(x).movedim(self.channel, -1)
        if self.parts == ("all",):
            y = self.scales["all"](y, x)
        elif not self.gated():
            y = _affine(y, *self._vectors(y, y.shape[-1]))
        else:
            layout = layout_of(y.shape[-1], self.layout)
            pieces = layout.split(y, -1)
            y = layout.join({p: self.scales[p](z, x) if p in self.scales else z for p, z in pieces.items()}, -1)
        return y.movedim(-1, self.channel)

    def _of_base(self, name: str) -> Tensor | None:
        weight = dense(self.base)
        return weight if name == "weight" else cast("Tensor | None", self.base.bias)

    def _vectors(self, like: Tensor, rows: int) -> tuple[Tensor, Tensor | None]:
        """l and b of all rows, one and zero where nothing is scaled; no b where nothing is shifted."""
        layout = layout_of(rows, self.layout)
        # functions, not the bound methods, which torch.compile does not take as arguments
        scales = {part: cast(Scale, scale) for part, scale in self.scales.items()}
        factor = layout.join({part: scale.vector() for part, scale in scales.items()}, 0, lambda n: like.new_ones(n))
        if not self.shifted:
            return factor, None
        shifts = {part: scale.bias for part, scale in scales.items() if scale.bias is not None}
        return factor, layout.join(shifts, 0, lambda n: like.new_zeros(n))


def _affine(x: Tensor, factor: Tensor, shift: Tensor | None) -> Tensor:
    """`factor * x + shift` in the dtype of x, which may be narrower than the vectors."""
    y = x * factor if shift is None else torch.addcmul(shift, x, factor)
    return y.to(x.dtype)


def _channel_of(layer: nn.Module) -> int:
    """The dimension of a layer's output along which its channels lie: 1 for maps (B, C, H, W), else the last."""
    maps = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.GroupNorm)) or "2d" in type(layer).__name__
    return 1 if maps else -1
