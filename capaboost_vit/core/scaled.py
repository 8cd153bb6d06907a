"""A frozen layer whose outputs or inputs are multiplied by learned vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from .adapted import Wrapper
from .gate import Gate


class Scale(nn.Module):
    """`y = x * l`, or with a gate `x * (1 + g (l - 1))`; l starts from one, so it is the identity at first."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(features))
        self.gate: Gate | None = None

    def forward(self, x: Tensor, gated_by: Tensor) -> Tensor:
        """x (..., features); `gated_by` is what the gate, if there is one, looks at."""
        factor = self.weight if self.gate is None else 1 + self.gate(gated_by) * (self.weight - 1)
        return (x * factor).to(x.dtype)  # under autocast x is narrower than l

    def vector(self) -> Tensor:
        """l, (features,). Raises TypeError if a gate makes it depend on the input."""
        if self.gate is not None:
            raise TypeError("this scale has a gate, which depends on the input: no weight can express it")
        return self.weight

    def trained_parameters(self) -> list[nn.Parameter]:
        """All of them."""
        return list(self.parameters())


class Scaled(Wrapper):
    """`y = l * base(x)` on the rows of some parts ("output"), or `y = base(l * x)` ("input"): IA3.

    Args:
        base: a layer, usually linear; its outputs are `len(parts)` equal parts, such as q, k and v of a fused qkv.
        scales: a scale for each part, by name; for "input" the one part "all".
        parts: the names of all parts, in the order of the rows.
        side: "output" or "input".

    `weight` and `bias` are those of the linear layer that computes the same, where the base is linear.

    Source: IA3, arXiv 2205.05638.

    Raises:
        ValueError: an unknown side, or a scale for an unknown part.
    """

    def __init__(
        self, base: nn.Module, scales: Mapping[str, Scale], parts: tuple[str, ...] = ("all",), side: str = "output"
    ) -> None:
        if side not in ("output", "input"):
            raise ValueError(f"side must be 'output' or 'input', got {side!r}")
        own = parts if side == "output" else ("all",)
        unknown = [name for name in scales if name not in own]
        if unknown:
            raise ValueError(f"no part {unknown[0]!r} among {', '.join(own)}")
        super().__init__(base)
        self.scales = nn.ModuleDict(scales)
        self.parts, self.side = parts, side
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """`diag(l) W` or `W diag(l)`, (out, in). Errors in here are never AttributeErrors (nn.Module swallows them)."""
        weight = self._of_base("weight")
        assert weight is not None
        if self.side == "input":
            return weight * cast(Scale, self.scales["all"]).vector()
        return weight * self._rows(weight).unsqueeze(1)

    @property
    def bias(self) -> Tensor | None:
        """`l * b`, or b where the input is scaled."""
        bias = self._of_base("bias")
        return bias if bias is None or self.side == "input" else bias * self._rows(bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.side == "input":
            return self.base(self.scales["all"](x, x))
        y = self.base(x)
        if self.parts == ("all",):
            return self.scales["all"](y, x)
        pieces = zip(self.parts, y.chunk(len(self.parts), dim=-1), strict=True)
        return torch.cat([self.scales[p](piece, x) if p in self.scales else piece for p, piece in pieces], dim=-1)

    def _of_base(self, name: str) -> Tensor | None:
        if not hasattr(self.base, "weight"):
            raise TypeError(f"a {type(self.base).__name__} has no weight of its own that could be scaled")
        return cast("Tensor | None", getattr(self.base, name))

    def _rows(self, like: Tensor) -> Tensor:
        """l of all rows, one where nothing is scaled."""
        one = torch.ones_like(like.flatten(1)[:, 0] if like.dim() > 1 else like)
        pieces = zip(self.parts, one.chunk(len(self.parts)), strict=True)
        return torch.cat([cast(Scale, self.scales[p]).vector() if p in self.scales else piece for p, piece in pieces])
