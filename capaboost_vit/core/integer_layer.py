"""Linear layers with an integer weight and a step size for each row: those in IntLoRA's training, and merged ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .base import copied, dense, operand, shape_of
from .chain import chain_with, note_chain
from .inject import replace_slots
from .integer_update import IntegerUpdate
from .layout import Layout, layout_of
from .merge import merge
from .names import get, slots
from .precision import narrow
from .products import without_autocast
from .record import check_no_peft, forget, plain_model
from .wrapper import Wrapper, merged_weights


class IntegerLinear(nn.Module):
    """`y = x (c * N)^T + b` with integers N (out, in), of 8 bits if they fit, else of 16, and step sizes c (out, 1).

    All of it is frozen. Raises ValueError for integers of more than 16 bits.
    """

    weight: Tensor
    step: Tensor

    def __init__(self, integers: Tensor, step: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = integers.shape
        self.register_buffer("weight", integers.to(_narrowest(integers)))
        self.register_buffer("step", step)
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, _dense(self), self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class IntegerUpdated(Wrapper):
    """`y = x W'^T + b` with the W' of an `IntegerUpdate` for each part of a linear layer.

    Args:
        base: the linear layer, in no other wrapper, as gradients end at the rounding of its weight.
        updates: an update for each part, by name.
        parts: these names in the order of the rows, or the layout.
    """

    adds = "an integer update"
    base: Any

    def __init__(
        self, base: nn.Module, updates: Mapping[str, IntegerUpdate], parts: tuple[str, ...] | Layout = ("all",)
    ) -> None:
        layout = layout_of(shape_of(base)[0], parts, updates)
        super().__init__(base)
        assert updates.keys() == set(layout.parts)
        self.out_features, self.layout = layout.rows, layout
        self.updates = nn.ModuleDict(updates)
        self.train(base.training)

    @property
    def bias(self) -> Tensor | None:
        return cast("Tensor | None", self.base.bias)

    @property
    def weight(self) -> Tensor:
        """W', (out, in)."""
        return self._weight(self.layout).to(dense(self.base).dtype)

    def merged(self, base: nn.Module) -> nn.Module:
        """The layer with W', as floating-point numbers."""
        return merged_weights(self, base)

    def integer_layer(self) -> IntegerLinear:
        """The layer with the integers of W': it computes the same to the bit."""
        pieces = {part: self._integers(part) for part in self.layout.parts}
        integers, steps = ({part: piece[i] for part, piece in pieces.items()} for i in (0, 1))
        layer = IntegerLinear(self.layout.join(integers, 0), self.layout.join(steps, 0), self.bias)
        return layer.train(self.training)

    def by_row(self) -> bool:
        """Yes: it is a linear layer."""
        return True

    def splits(self, at: int) -> bool:
        """Between its parts."""
        return self.layout.splits(at)

    def outputs(self, x: Tensor, start: int, stop: int) -> Tensor:
        """The features from `start` to `stop` of whole parts, (..., stop - start)."""
        bias = None if self.bias is None else self.bias[start:stop]
        return _product(x, self._weight(self.layout.between(start, stop)), bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.outputs(x, 0, self.out_features)

    def _integers(self, part: str) -> tuple[Tensor, Tensor]:
        rows = self.layout.split(dense(self.base), 0)[part]
        with without_autocast(rows):
            return cast(IntegerUpdate, self.updates[part]).integers(rows)

    def _weight(self, layout: Layout) -> Tensor:
        """The rows of W' that belong to the parts of a layout, in at least float32."""
        weights = {}
        for part in layout.parts:
            integers, step = self._integers(part)
            weights[part] = integers * step
        return layout.join(weights, 0)


def _narrowest(integers: Tensor) -> torch.dtype:
    largest = integers.abs().max() if integers.numel() else 0
    for dtype in (torch.int8, torch.int16):
        if largest <= torch.iinfo(dtype).max:
            return dtype
    raise ValueError(f"layers of integers have at most 16 bits, and {int(largest)} is larger than {2**15 - 1}")


@dense.register(IntegerLinear)
def _dense(layer: IntegerLinear) -> Tensor:
    return layer.weight.to(layer.step.dtype) * layer.step


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    bias = None if bias is None else bias.to(weight.dtype)
    return F.linear(operand(x, weight), weight, bias).to(x.dtype)


@torch.no_grad()
def merge_integers(model: nn.Module, *, inplace: bool = False) -> nn.Module:
    """A model without wrappers, whose layers with an integer update are `IntegerLinear`; others are merged by `merge`.

    The integer layers compute the same as before, bit for bit, from integers of 8 or 16 bits.

    Args:
        inplace: change the model itself, not a copy.

    Raises ValueError if no layer has an integer update, and what `merge` raises.

    Examples:
        >>> model = capaboost_vit.adapt(vit, "intlora")
        >>> small = capaboost_vit.core.merge_integers(model)
    """
    model = plain_model(model)
    check_no_peft(model)
    if not any(isinstance(module, IntegerUpdated) for _, module in slots(model)):
        raise ValueError(
            f"this {type(model).__name__} has no layer with an integer update of its own: adapt with intlora, or merge"
        )
    chain, model = chain_with(model), model if inplace else copied(model)
    replace_slots(model, lambda module: module.integer_layer() if isinstance(module, IntegerUpdated) else module)
    if any(isinstance(module, Wrapper) for _, module in slots(model)):
        return merge(model, inplace=True)
    narrow(model)
    forget(model)
    note_chain(model, chain)
    return model


def has_integers(model: nn.Module) -> bool:
    """Whether a model has an `IntegerLinear`."""
    return any(isinstance(module, IntegerLinear) for module in model.modules())


def load_integers(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads the state dict of a model that `merge_integers` has made into a plain model, in place.

    Layers with an integer weight in the state dict become `IntegerLinear`. Raises ValueError if the state dict is of
    another architecture, or has no such layer; the model may have changed then.
    """
    weights = [name for name, tensor in state.items() if name.endswith(".weight") and not tensor.is_floating_point()]
    if not weights:
        raise ValueError("no layer of it has a weight of integers")
    names = [name.removesuffix(".weight") for name in weights]
    try:
        layers = {
            get(model, name): IntegerLinear(state[f"{name}.weight"], state[f"{name}.step"], state.get(f"{name}.bias"))
            for name in names
        }
        replace_slots(model, lambda module: layers.get(module, module))
        model.load_state_dict(state)
    except (AttributeError, KeyError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"it is of another architecture than this {type(model).__name__}: {reason}") from error
