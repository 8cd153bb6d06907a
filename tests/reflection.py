"""A method from outside of the package: two reflections of a weight, W' = H(u) H(v) W, shared by all blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from capaboost_vit import Method, Wrapper, core, merged_weights, register
from capaboost_vit.io.options import option


class Reflections(nn.Module):
    """`W -> H(u) H(v) W`, H(u) = 1 - 2 u u^T / |u|^2: orthogonal, and at first (u = v) the identity."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        start = torch.randn(width, generator=torch.Generator().manual_seed(seed)) / width**0.5
        self.u, self.v = nn.Parameter(start), nn.Parameter(start.clone())

    def forward(self, weight: Tensor) -> Tensor:
        for vector in (self.v, self.u):
            n = vector / vector.norm()
            weight = weight - 2 * torch.outer(n, n @ weight)
        return weight


class Reflected(Wrapper):
    adds = "a reflection"

    def __init__(self, base: nn.Module, reflections: Reflections) -> None:
        super().__init__(base)
        self.reflections = reflections
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        weight = self.base.weight
        return self.reflections(core.operand(weight, self.reflections.u)).to(weight.dtype)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def merged(self, base: nn.Module) -> nn.Module:
        return merged_weights(self, base)


@register
@dataclass(frozen=True)
class Reflection(Method):
    """Reflection: W' = H(u) H(v) W with vectors that all blocks share, and a penalty on their lengths."""

    name: ClassVar[str] = "reflection"
    targets: tuple[str, ...] = option(("mlp_out",), "roles or name patterns of layers of one width", compared=False)
    strength: float = option(0.1, "of the penalty (|u|^2 - 1)^2 + (|v|^2 - 1)^2", low=0)
    init_seed: int = option(0, "seed of the start", compared=False)

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, Wrapper]]:
        shared = None
        for name in dict.fromkeys(p.name for t in self.targets for p in core.find(model, t, anatomy)):
            base = core.get(model, name)
            if shared is None:
                shared = Reflections(core.shape_of(core.unwrap(base))[0], self.init_seed)
                shared.to(**core.device_and_dtype(base))
            yield name, Reflected(base, shared)

    def penalty(self, model: nn.Module) -> Tensor:
        shared = next(m for m in model.modules() if isinstance(m, Reflections))
        return self.strength * sum((v.square().sum() - 1).square() for v in (shared.u, shared.v))
