"""A frozen layer whose bias is made by an adapter of the bias that it had."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from .base import device_and_dtype, is_linear, kind_of, shape_of
from .branch import LowRankBranch
from .masking import Masking
from .wrapper import Wrapper, merged_weights, sharing, unwrap


class BiasUpdate(nn.Module):
    """`b + B act(A b)` for the bias b of a layer, with A (R, out), B (out, R) and B = 0 at first; or the new bias.

    `fold` replaces A and B by the new bias, which is all that is needed after training.

    Args:
        bias: b, (out,).
        bottleneck: R; None: the new bias itself, which starts as b.
        activation, init_seed, path: as in `LowRankBranch`.
    """

    def __init__(
        self, bias: Tensor, bottleneck: int | None, *, activation: str = "relu", init_seed: int = 0, path: str = ""
    ) -> None:
        super().__init__()
        self.branch: LowRankBranch | None = None
        self.value: nn.Parameter | None = None
        if bottleneck is None:
            self.value = nn.Parameter(bias.detach().clone())
        else:
            masking = Masking(1, 1.0, init_seed=init_seed)
            self.branch = LowRankBranch(len(bias), len(bias), bottleneck, masking, act=activation, path=path)

    def forward(self, bias: Tensor) -> Tensor:
        """The bias (out,) that takes the place of `bias`, in at least float32 if the parameters are."""
        if self.branch is None:
            return cast(Tensor, self.value)
        wide = bias.to(torch.promote_types(bias.dtype, next(self.branch.parameters()).dtype))
        return wide + self.branch(wide)

    def fold_with(self, bias: Tensor) -> bool:
        """Keeps the vector alone; whether there was an adapter."""
        if self.branch is None:
            return False
        trained = any(parameter.requires_grad for parameter in self.parameters())
        self.value = nn.Parameter(self(bias).detach(), requires_grad=trained)
        self.branch = None
        return True


class AdaptedBias(Wrapper):
    """`y = W x + b'` with the b' of a `BiasUpdate`; W and b are those of `base`, with the updates of its own wrappers.

    Raises TypeError if the base is no linear layer, or has no bias.
    """

    adds = "an adapter of the bias"
    base: Any

    def __init__(self, base: nn.Module, update: BiasUpdate) -> None:
        super().__init__(base)
        self.update = update
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        weight: Tensor = self.base.weight
        return weight

    @property
    def bias(self) -> Tensor:
        """b', (out,)."""
        bias: Tensor = self.base.bias
        return self.update(bias).to(bias.dtype)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base(x)
        change = self.update(self.base.bias) - self.base.bias
        return (y + change).to(y.dtype)

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with the bias b'."""
        return merged_weights(self, base)

    def by_row(self) -> bool:
        """Yes: it adds the same to each row."""
        return True

    def first_rows(self, base: nn.Module, rows: int) -> nn.Module:
        """The same bias is added to the rows that there are."""
        return sharing(self, base=base)

    def fold(self) -> bool:
        """Keeps b' alone, as a vector."""
        return self.update.fold_with(self.base.bias)


def bias_of(layer: nn.Module, name: str) -> Tensor:
    """The bias of a linear layer. Raises TypeError if there is none."""
    inner = unwrap(layer)
    bias = getattr(layer, "bias", None)
    if not is_linear(inner) or not isinstance(bias, Tensor):
        raise TypeError(f"only linear layers with a bias take an adapter of it, but {name!r} is a {kind_of(inner)}")
    assert shape_of(inner)[0] == len(bias)
    return bias.to(**device_and_dtype(layer))
